"""Normalizations as equations against torch's modules: output, gradients, running statistics, both modes."""

import copy

import pytest
import torch
from torch import nn

from torchstone.parts import normalization as ours

CASES = {
    "batch 1d": (ours.BatchNorm(4), nn.BatchNorm1d(4), (7, 4)),
    "batch 1d of sequences": (ours.BatchNorm(4), nn.BatchNorm1d(4), (3, 4, 5)),
    "batch 2d": (ours.BatchNorm(3, eps=1e-3, momentum=0.3), nn.BatchNorm2d(3, eps=1e-3, momentum=0.3), (5, 3, 4, 6)),
    "batch, mean of all": (ours.BatchNorm(3, momentum=None), nn.BatchNorm2d(3, momentum=None), (5, 3, 4, 2)),
    "batch 3d": (ours.BatchNorm(2), nn.BatchNorm3d(2), (2, 2, 3, 2, 4)),
    "layer": (ours.LayerNorm(6), nn.LayerNorm(6), (2, 5, 6)),
    "layer of three axes": (ours.LayerNorm(3, 4, 2, eps=1e-2), nn.LayerNorm((3, 4, 2), eps=1e-2), (5, 3, 4, 2)),
    "group": (ours.GroupNorm(3, 6), nn.GroupNorm(3, 6), (2, 6, 4, 3)),
    "one group": (ours.GroupNorm(1, 6), nn.GroupNorm(1, 6), (2, 6, 5)),
    "instance": (ours.InstanceNorm(3), nn.InstanceNorm2d(3), (2, 3, 4, 5)),
    "instance, affine": (ours.InstanceNorm(3, affine=True), nn.InstanceNorm1d(3, affine=True), (2, 3, 7)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name):
    mine, theirs, shape = (copy.deepcopy(each) for each in CASES[name])
    mine, theirs = mine.double(), theirs.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    mine.load_state_dict(theirs.state_dict())  # the names are the same
    gaps = []
    for is_training in (True, True, True, False):
        mine.train(is_training)
        theirs.train(is_training)
        x = 3 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        results = []
        for module in (mine, theirs):
            module.zero_grad()
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).sin()).sum().backward()
            results.append([y.detach(), leaf.grad, *(p.grad for p in module.parameters()), *module.buffers()])
        gaps += [float((a - b).abs().max()) for a, b in zip(*results, strict=True)]
    print(f"{name}: {len(gaps)} tensors, at most {max(gaps):.1e}")
    assert max(gaps) <= 1e-12


def test_instance_is_group_of_one_channel_and_layer_is_one_group():
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours.InstanceNorm(4)(x), ours.GroupNorm(4, 4).double()(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.LayerNorm(4, 5, 3).double()(x), ours.GroupNorm(1, 4).double()(x), rtol=0, atol=1e-14)


def test_groups_must_divide():
    with pytest.raises(ValueError, match="no multiple"):
        ours.GroupNorm(4, 6)
