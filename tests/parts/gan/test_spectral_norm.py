"""Spectral normalization against the singular values, and against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm

from torchstone.parts.gan.spectral_norm import SpectralNorm, apply_spectral_norm

LAYERS = {
    "linear": lambda: nn.Linear(20, 30),
    "convolution": lambda: nn.Conv2d(6, 10, 3),
    "transposed": lambda: nn.ConvTranspose2d(6, 10, 3),
}


def largest(layer: nn.Module) -> float:
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    return float(torch.linalg.svdvals(weight.flatten(1))[0])


@pytest.mark.parametrize("name", LAYERS)
def test_spectral_norm_singular_value_converges_to_one(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    raw, before = layer.weight.detach().clone(), largest(layer)
    apply_spectral_norm(layer)
    for _ in range(30):
        layer.train()
        layer.weight  # noqa: B018  each use is a step of power iteration
    layer.eval()
    print(f"{name}: σ was {before:.4f}, is {largest(layer):.6f}")
    assert largest(layer) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(layer.weight * before, raw, atol=1e-3)
    assert abs(before - 1) > 0.05


@pytest.mark.parametrize("name", LAYERS)
def test_spectral_norm_matches_torch(name):
    """From the same vectors: the same weights and gradients over steps of descent, and in evaluation."""
    torch.manual_seed(0)
    ours = LAYERS[name]().double()
    theirs = LAYERS[name]().double()
    theirs.load_state_dict(ours.state_dict())
    apply_spectral_norm(ours), spectral_norm(theirs)  # which turns v first, as the paper does
    mine = ours.parametrizations.weight[0]
    mine.u.copy_(theirs.weight_u), mine.v.copy_(theirs.weight_v)
    x = torch.randn(4, 20) if name == "linear" else torch.randn(4, 6, 7, 7)
    for step in range(4):
        outputs = []
        for layer in (ours, theirs):
            layer.train(step != 2)  # in evaluation nothing turns
            made = layer(x.double()) + layer(2 * x.double())  # twice, before the gradient is taken
            layer.zero_grad()
            made.square().mean().backward()
            outputs.append(made)
        weights = [ours.parametrizations.weight.original, theirs.weight_orig]
        assert torch.allclose(*outputs, rtol=1e-12)
        assert torch.allclose(weights[0].grad, weights[1].grad, rtol=1e-10)
        with torch.no_grad():
            for weight in weights:
                weight -= 0.1 * weight.grad
    assert torch.allclose(mine.u, theirs.weight_u, rtol=1e-10)


def test_spectral_norm_state_and_evaluation_mode():
    torch.manual_seed(0)
    first, second = (
        apply_spectral_norm(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))) for _ in "ab"
    )
    x = torch.randn(3, 5)
    for each in (m for m in first.modules() if isinstance(m, SpectralNorm)):
        nn.init.normal_(each.u)  # far from where it goes
    first(x)
    second.load_state_dict(first.state_dict())
    first.eval(), second.eval()
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), first(x))
    first.train()
    assert not torch.equal(first(x), second(x))
    assert sum(isinstance(m, SpectralNorm) for m in first.modules()) == 2
