"""Dropout against torch's with the same draws, and DropBlock against algorithm 1 in loops and its share."""

import pytest
import torch
from torch import nn

from torchstone.parts.dropout import DropBlock, Dropout


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 1.0])
def test_dropout_equals_torch(p):
    """torch draws the same Bernoulli numbers from the same seed."""
    x = torch.randn(50, 40, dtype=torch.float64)
    outputs = []
    for module in (Dropout(p), nn.Dropout(p)):
        torch.manual_seed(5)
        outputs.append(module(x))
        assert torch.equal(module.eval()(x), x)
    assert torch.equal(*outputs)
    if 0 < p < 1:
        dropped = (outputs[0] == 0).double().mean()
        assert float(dropped) == pytest.approx(p, abs=0.04)
        ones = Dropout(p)(torch.ones(200_000))
        print(ones.mean(), ones.var(), p / (1 - p))
        assert float(ones.mean()) == pytest.approx(1, abs=5 * (p / (1 - p) / 2e5) ** 0.5)
        assert float(ones.var()) == pytest.approx(p / (1 - p), rel=0.05)


def by_loops(x, p, block):
    """Algorithm 1, one place after the other, with the same draws."""
    batch, channels, height, width = x.shape
    rows, columns = height - block + 1, width - block + 1
    gamma = p * height * width / (block**2 * rows * columns)
    begins = torch.empty(batch, channels, rows, columns, dtype=x.dtype).bernoulli_(gamma)
    mask = torch.ones_like(x)
    for b, c, i, j in begins.nonzero().tolist():
        mask[b, c, i : i + block, j : j + block] = 0
    return x * mask * mask.numel() / mask.sum()


@pytest.mark.parametrize(("p", "block"), [(0.1, 1), (0.2, 3), (0.3, 2), (0.15, 5)])
def test_drop_block_equals_algorithm_1(p, block):
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    torch.manual_seed(2)
    expected = by_loops(x, p, block)
    torch.manual_seed(2)
    found = DropBlock(p, block)(x)
    assert 0 < int((found == 0).sum()) < found.numel()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(DropBlock(p, block).eval()(x), x)


def test_drop_block_drops_about_the_share_and_keeps_the_mean():
    y = DropBlock(0.1, 3)(torch.ones(64, 16, 14, 14))
    share = float((y == 0).float().mean())
    print(share, float(y.mean()))
    assert 0.08 < share < 0.1 + 0.005  # blocks that overlap drop a unit once
    assert float(y.mean()) == pytest.approx(1, abs=1e-5)


def test_impossible_probabilities_are_refused():
    for make in (lambda: Dropout(1.5), lambda: DropBlock(-0.1, 2)):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            make()
