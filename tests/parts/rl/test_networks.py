"""Ensembles: the batched layers equal separate ones, in output and gradients, and begin as they do."""

import torch
from torch import nn

from torchstone.parts.rl.networks import EnsembleLinear, ensemble_mlp, member_output


def separate(ensemble: nn.Sequential, member: int) -> nn.Sequential:
    """One member as a network of `nn.Linear`."""
    layers = []
    for layer in ensemble:
        if isinstance(layer, EnsembleLinear):
            linear = nn.Linear(layer.in_features, layer.out_features).double()
            linear.weight.data = layer.weight.data[member].T.clone()
            linear.bias.data = layer.bias.data[member, 0].clone()
            layers.append(linear)
        else:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def test_ensemble_equals_separate_networks():
    torch.manual_seed(0)
    ensemble = ensemble_mlp(3, (5, 7, 6, 2)).double()
    members = [separate(ensemble, k) for k in range(3)]
    shared, own = torch.randn(1, 4, 5).double(), torch.randn(3, 4, 5).double()
    for x in (shared, own):
        ensemble.zero_grad(), [m.zero_grad() for m in members]
        y = ensemble(x)
        expected = torch.stack([m(x[k if len(x) > 1 else 0]) for k, m in enumerate(members)])
        print("difference of outputs", (y - expected).abs().max().item())
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
        for k in range(3):
            one = member_output(ensemble, k, x[k if len(x) > 1 else 0])
            torch.testing.assert_close(one, expected[k], rtol=0, atol=1e-12)
        weight = torch.randn_like(y)
        (y * weight).sum().backward(), (expected * weight).sum().backward()
        for k, m in enumerate(members):
            for ours, theirs in zip(ensemble[::2], m[::2], strict=True):
                torch.testing.assert_close(ours.weight.grad[k].T, theirs.weight.grad, rtol=0, atol=1e-12)
                torch.testing.assert_close(ours.bias.grad[k, 0], theirs.bias.grad, rtol=0, atol=1e-12)


def test_ensemble_members_begin_apart_within_bounds_of_linear():
    torch.manual_seed(0)
    layer = EnsembleLinear(4, 25, 300)
    bound = torch.stack([nn.Linear(25, 300).weight.abs().max() for _ in range(4)]).max()
    print("largest weight", layer.weight.abs().max().item(), "of nn.Linear", bound.item())
    assert 0.199 < layer.weight.abs().max() <= 0.2
    assert 0.199 < layer.bias.abs().max() <= 0.2
    assert torch.allclose(layer.weight.std(dim=(1, 2)), torch.full((4,), 0.4 / 12**0.5), rtol=0.02)
    assert not torch.equal(layer.weight[0], layer.weight[1])
