"""Mixtures of logistics against torch's distributions, in the tails, and inverted where they are nearly flat."""

import math
from typing import Any

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Categorical,
    MixtureSameFamily,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

from torchstone.parts.flow.logistic_mixture import LogisticMixture


def mixture(shape: tuple[int, ...] = (50,), components: int = 4, dtype=torch.float64) -> LogisticMixture:
    generator = torch.Generator().manual_seed(components)
    draw = lambda: torch.randn(*shape, components, generator=generator, dtype=dtype)  # noqa: E731
    return LogisticMixture(draw(), 3 * draw(), draw() - 0.5)


def flat(log_gap: float, dtype=torch.float64) -> LogisticMixture:
    """Two narrow components far from each other: between them the slope of σ⁻¹(F) is about exp(−log_gap)."""
    scale = 0.05
    half = scale * (log_gap - math.log(scale))
    return LogisticMixture(
        torch.tensor([[0.3, -0.2]], dtype=dtype),
        torch.tensor([[-half, half]], dtype=dtype),
        torch.full((1, 2), math.log(scale), dtype=dtype),
    )


@pytest.mark.parametrize("components", [1, 2, 7])
def test_logistic_mixture_matches_torch_distributions(components):
    ours = mixture(components=components)
    base = TransformedDistribution(
        Uniform(torch.zeros_like(ours.mean), torch.ones_like(ours.mean)),
        [SigmoidTransform().inv, AffineTransform(ours.mean, ours.log_scale.exp())],
        validate_args=False,
    )
    theirs: Any = MixtureSameFamily(Categorical(logits=ours.logits), base, validate_args=False)
    x = torch.linspace(-4, 4, 50, dtype=torch.float64)
    cdf, density = theirs.cdf(x), theirs.log_prob(x)
    assert torch.allclose(ours.log_prob(x), density, atol=1e-10)
    y, log_slope = ours.logit_cdf(x)
    exact = (cdf / (1 - cdf)).log()
    near = exact.abs() < 15  # beyond that 1 − cdf has lost its digits
    assert int(near.sum()) > 30
    assert torch.allclose(y[near], exact[near], atol=1e-8)
    assert torch.allclose(log_slope[near], (density - (cdf * (1 - cdf)).log())[near], atol=1e-8)


def test_logit_cdf_derivative_is_that_of_autograd():
    ours = mixture()
    x = torch.linspace(-6, 6, 50, dtype=torch.float64, requires_grad=True)
    y, log_slope = ours.logit_cdf(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(log_slope, slope.log(), atol=1e-10)
    assert float((log_slope.max() - log_slope.min()).detach()) > 1


def test_logit_cdf_is_stable_in_the_tails_of_float32():
    """A thousand scales out on either side: finite, with finite gradients, and as float64 has it. By way of
    F itself the upper tail ends at 17 scales, where F rounds to 1."""
    double = mixture((9,))
    single = LogisticMixture(*(each.float().requires_grad_() for each in double))
    for far in (-1000.0, -30.0, 30.0, 1000.0):
        x = torch.full((9,), far)
        y, log_slope = single.logit_cdf(x)
        exact, exact_slope = double.logit_cdf(x.double())
        assert torch.allclose(y.double(), exact, rtol=1e-5), far
        assert torch.allclose(log_slope.double(), exact_slope, atol=2e-3), far
        gradients = torch.autograd.grad((y + log_slope).sum(), list(single))
        assert all(bool(torch.isfinite(each).all()) for each in gradients), far
    one = LogisticMixture(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    assert one.logit_cdf(torch.tensor([90.0]))[0].item() == 90.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_inverse_of_random_mixtures(dtype):
    ours = mixture((200,), dtype=dtype)
    x = torch.linspace(-8, 8, 200, dtype=dtype)
    back = ours.inverse_logit_cdf(ours.logit_cdf(x)[0])
    print(f"{dtype}: there and back {float((back - x).abs().max()):.1e}")
    assert back.dtype == dtype
    assert float((back - x).abs().max()) < 1e-5


@pytest.mark.parametrize("log_gap", [6.0, 12.0, 18.0])
def test_inverse_where_the_mixture_is_nearly_flat(log_gap):
    """In double precision x comes back to 1e-5. In single precision y itself no longer tells such x apart:
    there y comes back, and x as far as a rounding of y moves it."""
    ours = flat(log_gap)
    x = torch.linspace(-0.5, 0.5, 21, dtype=torch.float64)[:, None]
    many = LogisticMixture(*(each[None].expand(21, 1, 2) for each in ours))
    y, log_slope = many.logit_cdf(x)
    slope = float(log_slope.exp().min())
    error = float((many.inverse_logit_cdf(y) - x).abs().max())
    single = LogisticMixture(*(each.float() for each in many))
    y32, slope32 = single.logit_cdf(x.float())
    back = single.inverse_logit_cdf(y32)
    there = float((single.logit_cdf(back)[0] - y32).abs().max())
    exact = LogisticMixture(*(each.double() for each in single)).inverse_logit_cdf(y32.double())
    rounding = (back - x.float()).abs() * slope32.exp()
    print(f"slope {slope:.1e}: x {error:.1e} off; float32: y {there:.1e}, x {float(rounding.max()):.1e} of y")
    assert slope < 40 * math.exp(-log_gap)
    assert error < 1e-5
    assert float((back - exact).abs().max()) < 1e-6  # of the y that is given, x is exact in float32 too
    assert there < 1e-5
    assert float(rounding.max()) < 1e-5


def test_inverse_in_both_tails_and_of_one_component():
    ours = mixture((40,))
    y = torch.cat([torch.linspace(-300, -20, 20), torch.linspace(20, 300, 20)]).double()
    x = ours.inverse_logit_cdf(y)
    assert torch.allclose(ours.logit_cdf(x)[0], y, rtol=1e-9)
    one = LogisticMixture(*(each[..., :1] for each in ours))
    affine = one.mean[..., 0] + one.log_scale[..., 0].exp() * y
    assert torch.allclose(one.inverse_logit_cdf(y), affine, rtol=1e-12)
