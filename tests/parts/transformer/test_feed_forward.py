"""The feed-forward network, and torch's norms, against their formulas."""

import pytest
import torch
from torch import nn

from torchstone.parts.transformer.feed_forward import ACTIVATIONS, FeedForward
from torchstone.references.transformers import import_transformers


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_feed_forward_equals_formula(name, gated):
    import_transformers()
    from transformers.activations import ACT2FN

    torch.manual_seed(0)
    net = FeedForward(6, 10, name, gated=gated).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    f = ACT2FN[name]
    hidden = f(net.gate(x)) * net.up(x) if gated else f(net.up(x))
    assert float((net(x) - (hidden @ net.down.weight.T + net.down.bias)).abs().max()) < 1e-12


def test_norms_equal_formulas():
    """Parts that torch has, compared with what the papers write."""
    x = torch.randn(4, 7, dtype=torch.float64)
    layer, rms = nn.LayerNorm(7).double(), nn.RMSNorm(7, eps=1e-6).double()
    with torch.no_grad():
        for weight in (layer.weight, layer.bias, rms.weight):
            weight.normal_()
    variance = (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True)
    formula = (x - x.mean(1, keepdim=True)) / (variance + 1e-5).sqrt() * layer.weight + layer.bias
    assert float((layer(x) - formula).abs().max()) < 1e-12
    formula = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * rms.weight
    assert float((rms(x) - formula).abs().max()) < 1e-12


@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward_dropout_only_in_training(gated):
    layer, x = FeedForward(4, 8, gated=gated, dropout=1.0), torch.randn(3, 4)
    assert torch.equal(layer(x), layer.down.bias.expand(3, 4)), "with all dropped the bias is left"
    plain = FeedForward(4, 8, gated=gated)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), plain(x))
