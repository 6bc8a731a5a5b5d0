"""Quantiles: their loss against the formula, one number after another, and what its minimum is."""

import pytest
import torch

from torchstone.parts.series.quantile_loss import inside_band, interpolate_quantiles, sort_quantiles, pinball

LEVELS = (0.1, 0.5, 0.9)


def test_pinball_is_its_formula():
    told = torch.randn(4, 5, 3, dtype=torch.float64)
    actual = torch.randn(4, 5, dtype=torch.float64)
    ours = pinball(told, actual, LEVELS)
    for row in range(4):
        for place in range(5):
            for i, q in enumerate(LEVELS):
                miss = float(actual[row, place] - told[row, place, i])
                wanted = q * miss if miss >= 0 else (q - 1) * miss
                assert abs(float(ours[row, place, i]) - wanted) < 1e-12
    assert (ours >= 0).all()


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8])
def test_its_minimum_is_the_quantile_and_scikit_learn_has_the_same_loss(level):
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


def test_the_loss_pulls_down_by_the_level_and_up_by_the_rest():
    told = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    pinball(told, torch.tensor([1.0, -1.0], dtype=torch.float64), LEVELS).sum().backward()
    assert told.grad is not None
    assert torch.allclose(told.grad[0], -torch.tensor(LEVELS, dtype=torch.float64))
    assert torch.allclose(told.grad[1], 1 - torch.tensor(LEVELS, dtype=torch.float64))


def test_sorting_never_costs():
    told, actual = torch.randn(500, 3, dtype=torch.float64), torch.randn(500, dtype=torch.float64)
    before, after = (pinball(t, actual, LEVELS).sum(-1) for t in (told, sort_quantiles(told)))
    assert (sort_quantiles(told).diff(dim=-1) >= 0).all()
    assert (after <= before + 1e-12).all()
    assert (after < before - 1e-3).any()


def test_coverage_counts_what_lies_between_the_outer_two():
    told = torch.tensor([[-1.0, 0.0, 1.0]]).expand(5, 3)
    inside = inside_band(told, torch.tensor([-1.5, -1.0, 0.3, 1.0, 1.1]))
    assert inside.tolist() == [False, True, True, True, False]


def test_drawing_gives_back_the_distribution():
    """The quantiles of draws are those told; on the lines between and beyond them, by the formula."""
    told = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64).expand(100_000, 3)
    at = torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = interpolate_quantiles(told, LEVELS, at)
    found = values.quantile(torch.tensor(LEVELS, dtype=torch.float64))
    print(found.tolist())
    assert (found - told[0]).abs().max() < 0.03
    for level, wanted in (
        (0.1, -1),
        (0.3, -0.5),
        (0.5, 0),
        (0.7, 1.5),
        (0.05, -1.125),
        (0.95, 3.375),
    ):
        one = interpolate_quantiles(told[:1], LEVELS, torch.tensor([level], dtype=torch.float64))
        assert abs(float(one) - wanted) < 1e-9
