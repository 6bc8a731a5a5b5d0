"""Mixture-density output against torch.distributions, in value and gradient; samples against the distribution."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from torchstone.parts.mixture_density import MixtureDensity


def theirs(logits, mean, log_std):
    return MixtureSameFamily(Categorical(logits=logits), Normal(mean, log_std.exp()))


def draw(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = torch.randint(1, 6, (4,), generator=generator).tolist()
    parts = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]
    return parts, 3 * torch.randn(shape[:3], generator=generator, dtype=dtype)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_log_prob_and_gradient_equal_torchs(seed, dtype, tolerance):
    parts, x = draw(seed, dtype)
    columns = []
    for make in (lambda *p: MixtureDensity(*p).log_prob, lambda *p: theirs(*p).log_prob):
        leaves = [each.clone().requires_grad_() for each in (*parts, x)]
        value = make(*leaves[:3])(leaves[3])
        (value * torch.linspace(0.5, 1.5, value.numel(), dtype=dtype).view_as(value)).sum().backward()
        columns.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for a, b in zip(*columns, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0)


def test_far_values_stay_finite():
    mixture = MixtureDensity(torch.zeros(1, 2), torch.zeros(1, 2), torch.full((1, 2), -3.0))
    assert math.isfinite(float(mixture.log_prob(torch.full((1,), 100.0))))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_distribution(temperature):
    """Mean and variance of many samples, at the temperature: logits over τ, variances times τ."""
    torch.manual_seed(0)
    logits, mean, log_std = (
        torch.tensor([0.3, -0.5, 1.0]),
        torch.tensor([-4.0, 0.0, 3.0]),
        torch.tensor([-1.0, 0.2, 0.0]),
    )
    n = 200_000
    wide = MixtureDensity(*(each.expand(n, 1, 3) for each in (logits, mean, log_std)))
    x = wide.sample(torch.rand(n, 1), torch.randn(n, 1), temperature)
    expected = MixtureSameFamily(
        Categorical(logits=logits / temperature), Normal(mean, log_std.exp() * temperature**0.5)
    )
    assert abs(float(x.mean() - expected.mean)) < 0.03
    assert abs(float(x.var() / expected.variance) - 1) < 0.02


def test_the_uniform_number_chooses_the_component():
    mixture = MixtureDensity(torch.zeros(1, 4), torch.arange(4.0)[None], torch.full((1, 4), -20.0))
    for u, k in ((0.0, 0), (0.1, 0), (0.3, 1), (0.6, 2), (0.99, 3), (1.0, 3)):
        assert abs(float(mixture.sample(torch.tensor([u]), torch.ones(1))) - k) < 1e-6
