"""Networks of image translation: shapes, fields and bad sizes; numbers are compared by the systems' `reference`."""

import pytest
import torch
from torch import nn

from torchstone.errors import BadInput
from torchstone.parts.gan.image_translation import (
    PatchDiscriminator,
    ResNetGenerator,
    UNetGenerator,
    instance_norm,
)


def test_instance_norm_is_torch_s():
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64) * 7 + 2
    assert torch.allclose(instance_norm(5)(x), nn.InstanceNorm2d(5)(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_patch_is_what_a_logit_sees(layers):
    net = PatchDiscriminator(width=2, layers=layers, norm="batch").double().eval()
    side = 2 * net.patch_size() + 16
    x = torch.randn(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    logits = net(x)[0, 0]
    middle = logits.shape[0] // 2
    (gradient,) = torch.autograd.grad(logits[middle, middle], x)
    rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == net.patch_size() == {1: 16, 2: 34, 3: 70}[layers]


def test_images_are_of_the_same_sides_and_in_range():
    for net, height, width in (
        (ResNetGenerator(width=2, blocks=1), 8, 20),
        (UNetGenerator(width=2, depth=3), 16, 24),
        (UNetGenerator(width=2, depth=5, norm="instance"), 32, 32),
    ):
        images = net(torch.randn(2, 3, height, width))
        assert images.shape == (2, 3, height, width)
        assert float(images.detach().abs().max()) <= 1


def test_every_skip_of_the_unet_is_used():
    """With one level's way down cut at the bottleneck, the finer levels still see the input."""
    net = UNetGenerator(width=2, depth=3).eval()
    x = torch.randn(1, 3, 8, 8)
    maps = []
    for level in net.down:
        level.register_forward_hook(lambda module, _, output: maps.append(output))
        level[0].weight.requires_grad_(True)
    image = net(x)
    for each in maps:
        assert torch.autograd.grad(image.sum(), each, retain_graph=True)[0].abs().sum() > 0


def test_bad_sizes_are_one_line():
    for make, message in (
        (lambda: ResNetGenerator(blocks=0), "at least 1 channel and 1 block"),
        (lambda: UNetGenerator(depth=1), "a depth of 2"),
        (lambda: PatchDiscriminator(layers=0), "at least 1 channel and layer"),
        (lambda: PatchDiscriminator(norm="group"), "unknown norm 'group'"),
    ):
        with pytest.raises(BadInput, match=message):
            make()
