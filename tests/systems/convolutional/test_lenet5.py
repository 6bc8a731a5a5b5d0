"""LeNet-5 against the paper's own figures and formulas."""

import math

import pytest
import torch

import torchstone as ts
from torchstone.systems.convolutional.lenet5 import (
    DIGITS,
    LeNet5,
    LeNet5Paper,
    NaiveLeNet5,
    RadialBasis,
    Subsampling,
    TableConvolution,
    class_centers,
    connection_table,
    map_loss,
    squash,
)
from torchstone.verify import relative_error, verify


def test_lenet5_facts_and_parity():
    checks = verify(ts.list_systems()[[e.name for e in ts.list_systems()].index("lenet5")])
    for check in checks:
        print(check.name, check.measured, check.expected)
    assert all(check.passed for check in checks)
    assert len(checks) == 11


def test_connection_table_matches_paper():
    """The first six take three neighbours, the next six four, the next three four, the last all."""
    table = connection_table().T
    assert table.sum(1).tolist() == [3] * 6 + [4] * 9 + [6]
    for shift in range(6):
        assert table[shift].tolist() == torch.roll(table[0], shift).tolist()
        assert table[6 + shift].tolist() == torch.roll(table[6], shift).tolist()
    # "the next three take input from some discontinuous subsets of four"
    for row in table[12:15]:
        on = row.nonzero().flatten().tolist()
        gaps = [(b - a) % 6 for a, b in zip(on, on[1:] + on[:1], strict=True)]
        assert gaps.count(1) == 2


def test_table_convolution_respects_table():
    layer = TableConvolution(connection_table(), 5)
    for weight in layer.weights:
        torch.nn.init.normal_(weight)
    torch.nn.init.zeros_(layer.bias)
    x = torch.randn(1, 6, 14, 14)
    for source in range(6):
        without = x.clone()
        without[:, source] = 0
        changed = (layer(x) - layer(without)).abs().amax((0, 2, 3)) > 0
        assert changed.tolist() == connection_table()[source].bool().tolist()


def test_naive_lenet5_detects_wrong_connection():
    """The planted fault: parity must notice one wrong entry of table I."""
    torch.manual_seed(0)
    model, x = LeNet5Paper().double(), torch.randn(1, 1, 32, 32, dtype=torch.float64)
    good = relative_error(model(x), NaiveLeNet5(model)(x))
    model.c3.mask[0, 0], model.c3.mask[0, 5] = False, True
    bad = relative_error(model(x), NaiveLeNet5(model)(x))
    print(f"right {good:.1e}, one connection moved {bad:.1e}")
    assert good < 1e-12 < 1e-6 < bad


def test_squash_subsampling_and_radial_basis_equal_formulas():
    assert float(squash(torch.tensor(1.0))) == pytest.approx(1, abs=1e-4)
    assert float(squash(torch.tensor(100.0))) == pytest.approx(1.7159)
    layer = Subsampling(2)
    with torch.no_grad():
        layer.coefficient.copy_(torch.tensor([2.0, 3.0]).view(2, 1, 1))
        layer.bias.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1))
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 2, 4, 4)
    assert layer(x)[0, 0, 0, 0] == 2 * (0 + 1 + 4 + 5) + 1
    assert layer(x)[0, 1, 1, 1] == 3 * (10 + 11 + 14 + 15) - 1
    basis, x = RadialBasis(class_centers(10)), torch.randn(5, 84)
    slow = torch.stack([((x - c) ** 2).sum(1) for c in class_centers(10)], 1)
    assert relative_error(basis(x), slow) < 1e-5


def test_map_loss_equals_equation_9():
    distances = torch.rand(4, 10, dtype=torch.float64) * 5
    labels = torch.tensor([3, 0, 9, 1])
    total = 0.0
    for y, d in zip(distances.tolist(), labels.tolist(), strict=True):
        total += y[d] + math.log(math.exp(-1.0) + sum(math.exp(-v) for v in y))
    ours = float(map_loss(-distances, labels))
    print(ours, total / 4)
    assert ours == pytest.approx(total / 4, abs=1e-12)


def test_class_centers_bitmaps_7_by_12_and_distinct():
    assert all(len(d.split()) == 12 and {len(row) for row in d.split()} == {7} for d in DIGITS)
    drawn = class_centers(10)
    gaps = torch.cdist(drawn, drawn).square() / 4  # number of pixels that differ
    print(gaps.int())
    assert gaps[~torch.eye(10, dtype=torch.bool)].min() >= 5
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert class_centers(26).shape == (26, 84)
    assert torch.equal(class_centers(26), class_centers(26))


@pytest.mark.parametrize("make", [LeNet5, LeNet5Paper])
def test_lenet5_initial_logit_scale(make):
    """Activations neither vanish nor explode at the start."""
    torch.manual_seed(0)
    logits = make()(torch.randn(64, 1, 32, 32))
    print(make.__name__, float(logits.std()))
    assert torch.isfinite(logits).all()
    assert logits.std() > 1e-3


def test_lenet5_paper_initialization_range():
    model = LeNet5Paper()
    for name, fan_in in [("c1", 25), ("c5", 400), ("f6", 120)]:
        largest = float(getattr(model, name).weight.detach().abs().max())
        assert 0.95 * 2.4 / fan_in < largest <= 2.4 / fan_in
