"""Quantiles: their loss against the formula, one number after another, and what its minimum is."""

import pytest
import torch

from torchstone.parts.series.quantile_loss import inside_band, interpolate_quantiles, pinball, sort_quantiles

LEVELS = (0.1, 0.5, 0.9)


def test_pinball_matches_formula():
    predicted = torch.randn(4, 5, 3, dtype=torch.float64)
    actual = torch.randn(4, 5, dtype=torch.float64)
    ours = pinball(predicted, actual, LEVELS)
    for row in range(4):
        for place in range(5):
            for i, q in enumerate(LEVELS):
                miss = float(actual[row, place] - predicted[row, place, i])
                wanted = q * miss if miss >= 0 else (q - 1) * miss
                assert abs(float(ours[row, place, i]) - wanted) < 1e-12
    assert (ours >= 0).all()


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8])
def test_pinball_minimum_is_quantile(level):
    from sklearn.metrics import mean_pinball_loss

    actual = torch.randn(1001, dtype=torch.float64).exp()  # a lopsided distribution
    grid = torch.linspace(0, 5, 2001, dtype=torch.float64)
    losses = pinball(grid[:, None].expand(-1, 1001)[..., None], actual.expand(2001, -1), [level])
    losses = losses.mean(1)[:, 0]
    best = float(grid[losses.argmin()])
    print(level, best, float(actual.quantile(level)))
    assert abs(best - float(actual.quantile(level))) < 0.01
    theirs = mean_pinball_loss(actual.numpy(), grid[700].expand(1001).numpy(), alpha=level)
    assert abs(float(losses[700]) - theirs) < 1e-12


def test_pinball_gradient_is_level():
    predicted = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    pinball(predicted, torch.tensor([1.0, -1.0], dtype=torch.float64), LEVELS).sum().backward()
    assert predicted.grad is not None
    assert torch.allclose(predicted.grad[0], -torch.tensor(LEVELS, dtype=torch.float64))
    assert torch.allclose(predicted.grad[1], 1 - torch.tensor(LEVELS, dtype=torch.float64))


def test_sort_quantiles_never_increases_loss():
    predicted, actual = torch.randn(500, 3, dtype=torch.float64), torch.randn(500, dtype=torch.float64)
    before, after = (pinball(t, actual, LEVELS).sum(-1) for t in (predicted, sort_quantiles(predicted)))
    assert (sort_quantiles(predicted).diff(dim=-1) >= 0).all()
    assert (after <= before + 1e-12).all()
    assert (after < before - 1e-3).any()


def test_inside_band_counts_outer_quantiles():
    predicted = torch.tensor([[-1.0, 0.0, 1.0]]).expand(5, 3)
    inside = inside_band(predicted, torch.tensor([-1.5, -1.0, 0.3, 1.0, 1.1]))
    assert inside.tolist() == [False, True, True, True, False]


def test_interpolate_quantiles_recovers_distribution():
    """The quantiles of draws are those predicted; on the lines between and beyond them, by the formula."""
    predicted = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64).expand(100_000, 3)
    at = torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = interpolate_quantiles(predicted, LEVELS, at)
    found = values.quantile(torch.tensor(LEVELS, dtype=torch.float64))
    print(found.tolist())
    assert (found - predicted[0]).abs().max() < 0.03
    for level, wanted in ((0.1, -1), (0.3, -0.5), (0.5, 0), (0.7, 1.5), (0.05, -1.125), (0.95, 3.375)):
        one = interpolate_quantiles(predicted[:1], LEVELS, torch.tensor([level], dtype=torch.float64))
        assert abs(float(one) - wanted) < 1e-9
