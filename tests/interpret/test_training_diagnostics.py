"""Landscape, histograms and noise scale against their formulas; the run stays as it was to the bit."""

import pytest
import torch
import torch.nn.functional as F
from cli_helpers import assert_rejected, run_cli
from PIL import Image
from torch import nn

from torchstone.engine.update import GradientUpdate
from torchstone.interpret import training_diagnostics as diagnostics


class Shape:
    """What the diagnostics take of a run."""

    def __init__(self, model, loss):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        self.state = {"model": model, "update": GradientUpdate(loss, optimizer)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))


def classifier():
    model = network()
    return Shape(model, lambda batch: F.cross_entropy(model(batch[0]), batch[1]))


def batches(count=4, rows=16):
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(rows, 6, generator=generator), torch.randint(4, (rows,), generator=generator)) for _ in range(count)]


def snapshot(run):
    model = run.state["model"]
    tensors = [t.clone() for t in model.state_dict().values()] + [torch.get_rng_state()]
    return tensors, [m.training for m in model.modules()], [p.grad for p in model.parameters()]


def test_run_is_untouched_to_the_bit():
    run, several = classifier(), batches()
    before = snapshot(run)
    diagnostics.loss_landscape(run, several[0], points=3)
    diagnostics.layer_values(run, several[0])
    diagnostics.gradient_noise_scale(run, several)
    after = snapshot(run)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]


def test_landscape_of_a_quadratic_is_the_quadratic():
    """L(w) = ½‖w − 1‖² at w + a·δ + b·η; filters of δ have the norms of the weight's."""
    weight = nn.Linear(5, 3, bias=True).double()
    run = Shape(weight, lambda batch: 0.5 * (weight.weight - 1).square().sum() + weight.bias.sum() * 0)
    found = diagnostics.loss_landscape(run, torch.zeros(1), points=5, reach=2.0, seed=4)
    generator = torch.Generator().manual_seed(4)
    planes = []
    for _ in range(2):
        planes.append(diagnostics.filter_normalized(weight.weight.detach(), generator))
        assert not diagnostics.filter_normalized(weight.bias.detach(), generator).any()
    torch.testing.assert_close(planes[0].norm(dim=1), weight.weight.detach().norm(dim=1))
    assert found.offsets == [-2.0, -1.0, 0.0, 1.0, 2.0]
    for i, a in enumerate(found.offsets):
        for j, b in enumerate(found.offsets):
            w = weight.weight.detach() + a * planes[0] + b * planes[1]
            assert found.losses[i][j] == pytest.approx(float(0.5 * (w - 1).square().sum()), rel=1e-12)


def test_layer_values_are_those_of_a_plain_pass():
    run, (batch, *_) = classifier(), batches(1)
    activations, gradients = diagnostics.layer_values(run, batch)
    model = network()
    first = model[0](batch[0])
    assert [each.name for each in activations] == ["0", "1", "2", "3", "4"]
    assert [each.name for each in gradients] == ["0.weight", "4.weight"]
    assert torch.equal(activations[0].values, first.detach().flatten())
    torch.manual_seed(0)
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    assert gradients[0].values.shape == (48,)


def test_noise_scale_of_known_noise():
    """Rows are w + noise of variance σ² in each of d weights, so that tr(Σ)/‖G‖² = d·σ²/‖w‖²."""
    torch.manual_seed(0)
    layer = nn.Linear(50, 1, bias=False)
    target = torch.full((1, 50), 0.4)
    with torch.no_grad():
        layer.weight.zero_()
    run = Shape(layer, lambda rows: (layer.weight * rows.mean(0)).sum())
    several = [target + 2.0 * torch.randn(8, 50) for _ in range(400)]
    found = diagnostics.gradient_noise_scale(run, several)
    expected = 50 * 4.0 / (50 * 0.16)
    print(found.total, expected)
    assert found.total == pytest.approx(expected, rel=0.1)
    assert found.layers["weight"] == pytest.approx(found.total)
    assert (found.batch, found.batches) == (8, 400)
    nothing = [2.0 * torch.randn(8, 50) for _ in range(3)]
    assert diagnostics.gradient_noise_scale(run, [n - torch.stack(nothing).mean((0, 1)) for n in nothing]).total is None


def test_evenly_keeps_the_ends():
    assert diagnostics.evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert diagnostics.evenly([1, 2], 4) == [1, 2]


@pytest.mark.sweep
def test_diagnose_draws_a_run(trained_run, tmp_path, capsys):
    folder = trained_run("lenet5")
    before = sorted(path.name for path in folder.iterdir())
    code, out, _ = run_cli(capsys, "diagnose", folder, "--out", tmp_path / "d", "--batches", "4")
    assert code == 0
    assert "gradient noise scale" in out
    names = sorted(path.name for path in (tmp_path / "d").iterdir())
    assert names == ["activations.png", "gradients.png", "landscape.png", "noise_scale.png"]
    assert all(min(Image.open(tmp_path / "d" / name).size) > 150 for name in names)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_has_no_such_pictures_is_refused(tmp_path, capsys):
    assert "is not a run folder" in assert_rejected(capsys, "diagnose", tmp_path)
