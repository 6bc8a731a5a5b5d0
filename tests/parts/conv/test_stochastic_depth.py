"""Stochastic depth against its formula and torchvision's."""

import pytest
import torch

from torchstone.parts.conv.stochastic_depth import StochasticDepth, linear_drop_rates
from torchstone.parts.optional_imports import import_torchvision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(64, 3, 5, 5), (64, 7), (64,)])
def test_stochastic_depth_matches_torchvision(dtype, shape):
    x = torch.randn(*shape, dtype=dtype)
    ours, theirs = StochasticDepth(0.3), import_torchvision().ops.StochasticDepth(0.3, "row")
    torch.manual_seed(5)
    a = ours(x)
    torch.manual_seed(5)
    b = theirs(x)
    print(float((a - b).abs().max()))
    assert torch.equal(a, b)


def test_stochastic_depth_drops_full_rows_and_preserves_mean():
    rate, rows = 0.4, 20_000
    x = torch.rand(rows, 4, dtype=torch.float64) + 0.5
    torch.manual_seed(0)
    y = StochasticDepth(rate)(x)
    lost = (y == 0).all(1)
    assert torch.allclose(y[~lost], x[~lost] / (1 - rate), rtol=1e-14)
    share, mean = float(lost.double().mean()), float((y / x).mean())
    deviation = (rate * (1 - rate) / rows) ** 0.5
    print(f"lost {share:.4f} of {rate}, mean {mean:.4f}, deviation {deviation:.4f}")
    assert abs(share - rate) < 4 * deviation
    assert abs(mean - 1) < 4 * deviation / (1 - rate)


def test_stochastic_depth_identity_in_eval_and_at_rate_zero():
    x = torch.randn(8, 3)
    before = torch.get_rng_state()
    assert torch.equal(StochasticDepth(0.9).eval()(x), x)
    assert torch.equal(StochasticDepth(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_stochastic_depth_gradient_only_through_surviving_rows():
    x = torch.ones(100, 2, requires_grad=True)
    y = StochasticDepth(0.5)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_linear_drop_rates_and_invalid_rates():
    assert linear_drop_rates(0.2, 4) == pytest.approx([0.0, 0.05, 0.1, 0.15])
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="not at least 0 and below 1"):
            StochasticDepth(rate)
