"""Conformal offsets: coverage on fresh data, under a shift, and no look ahead."""

import numpy as np
import pytest
import torch

from torchstone.parts.series.conformal import OffsetTracker, apply_offsets, conformal_offsets, residual_scale

LEVELS = (0.1, 0.5, 0.9)


def test_conformal_offsets_are_quantiles_of_residuals():
    residuals = torch.randn(99, 4, 2, 3)
    observed = torch.ones(99, 4, 2, dtype=torch.bool)
    found = conformal_offsets(residuals, observed, LEVELS)
    for i, level in enumerate(LEVELS):
        # of n values the one of rank q (n + 1), the weibull definition
        wanted = np.quantile(residuals[..., i].numpy(), level, axis=0, method="weibull")
        print(level, found[0, 0, i], wanted[0, 0])
        assert np.allclose(found[..., i].numpy(), wanted, atol=1e-6)


def test_conformal_offsets_leave_unobserved_out():
    residuals, observed = torch.randn(50, 2, 1, 3), torch.rand(50, 2, 1) < 0.6
    observed[:, 1] = False
    changed = torch.where(observed[..., None], residuals, 1e6)
    ours, theirs = (conformal_offsets(each, observed, LEVELS) for each in (residuals, changed))
    print(ours[:, 0].tolist())
    assert torch.equal(ours, theirs)
    assert ours[1].abs().max() == 0  # nothing was observed there
    kept = residuals[observed[:, 0, 0], 0, 0, 2].numpy()
    assert float(ours[0, 0, 2]) == pytest.approx(float(np.quantile(kept, 0.9, method="weibull")), rel=1e-5)
    assert torch.equal(residual_scale(residuals, observed), residual_scale(changed.clamp(max=9), observed))


def test_apply_offsets_keeps_median_and_order():
    predicted = torch.tensor([[1.0, 2.0, 3.0]])
    assert apply_offsets(predicted, torch.tensor([[-1.0, 9.0, 2.0]]), 1).tolist() == [[0, 2, 5]]
    assert apply_offsets(predicted, torch.tensor([[5.0, 0.0, -5.0]]), 1).tolist() == [[2, 2, 2]]
    five = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    crossed = apply_offsets(five, torch.tensor([[1.5, 0.0, 0.0, 0.0, -1.5]]), 2)
    assert crossed.tolist() == [[2.0, 2.5, 3.0, 3.5, 4.0]]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_tracker_covers_what_a_fixed_offset_does_not(shift):
    """Residuals that become three times as large: the fixed band covers less, the tracker as much as before."""
    horizon, count = 4, 4000
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(1000, horizon, 1, 1, generator=generator).expand(-1, -1, -1, 3)
    after = shift * torch.randn(count, horizon, 1, 1, generator=generator).expand(-1, -1, -1, 3)
    observed = torch.ones(count, horizon, 1, dtype=torch.bool)
    offsets = conformal_offsets(before, observed[:1000], LEVELS)
    tracker = OffsetTracker(offsets, residual_scale(before, observed[:1000]), LEVELS)

    def covers(own, residual):
        return ((own[..., 0] <= residual[..., 0]) & (residual[..., 0] <= own[..., 2])).double().mean()

    fixed, tracked = [], []
    for start in range(count):
        tracked.append(covers(tracker.next_offsets(start), after[start]))
        fixed.append(covers(offsets, after[start]))
        tracker.add(start, after[start], observed[start])
    later = slice(count // 4, None)  # the tracker needs a while
    rates = float(torch.stack(fixed)[later].mean()), float(torch.stack(tracked)[later].mean())
    print(f"shift {shift}: fixed {rates[0]:.3f}, tracked {rates[1]:.3f}")
    assert rates[1] == pytest.approx(0.8, abs=0.03)
    assert rates[0] == pytest.approx(0.8, abs=0.03) if shift == 1 else rates[0] < 0.4


def test_tracker_never_looks_ahead():
    """What lies after a forecast's beginning may be anything: its offsets do not change by it."""
    horizon, now = 5, 20
    series = torch.randn(60)
    other = series.clone()
    other[now:] = 1e3  # the points from `now` on; the window at `start` forecasts start … start + 4

    def offsets_at(values):
        tracker = OffsetTracker(torch.zeros(horizon, 1, 3), torch.ones(horizon, 1), LEVELS)
        found = []
        for start in range(now + 1):
            found.append(tracker.next_offsets(start).clone())
            future = values[start : start + horizon, None, None].expand(-1, -1, 3)
            tracker.add(start, future, torch.ones(horizon, 1, dtype=torch.bool))
        return torch.stack(found)

    ours, theirs = offsets_at(series), offsets_at(other)
    assert torch.equal(ours, theirs)
    print(ours[-1, :, 0, 0].tolist())
    assert (ours[now, :, 0] != ours[now - 1, :, 0]).all()  # every step learned from the point before
    later = OffsetTracker(torch.zeros(horizon, 1, 3), torch.ones(horizon, 1), LEVELS)
    later.add(0, torch.ones(horizon, 1, 3), torch.ones(horizon, 1, dtype=torch.bool))
    assert later.next_offsets(1)[1:].abs().max() == 0  # step 1 of the window at 0 has not come yet
