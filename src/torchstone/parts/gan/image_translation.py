"""Networks that translate images: two generators, and a discriminator of patches.

    resnet   7×7 · down · down · blocks × residual · up · up · 7×7 · tanh (Johnson et al. 2016, 1603.08155)
    unet     depth × (4×4, stride 2) down, as many up, each up step also takes the maps of its own grid
    patch    4×4 convolutions, the first `layers` of stride 2; a logit for each patch

Zhu et al. 2017 (arXiv:1703.10593), section 7.2; Isola et al. 2017 (arXiv:1611.07004), section 6.1. Widths,
biases and the order of layers are those of the authors' PyTorch code.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.gan.initialization import init_normal

Images = Float[Tensor, "batch channel height width"]

MAX_WIDENING = 8  # channels grow by doubling, at most to so many times the first


def instance_norm(channels: int) -> nn.Module:
    """Each channel of each image to mean 0 and variance 1. Group norm with a group for each channel is the
    same, and faster on a CPU."""
    return nn.GroupNorm(channels, channels, affine=False)


NORMS: dict[str, Any] = {"instance": instance_norm, "batch": nn.BatchNorm2d}


def norm_of(name: str) -> tuple[Any, bool]:
    """A norm by its number of channels, and whether convolutions before it have a bias: the shift of batch
    norm makes it needless. That before an instance norm has no effect, but the published networks have it."""
    if name not in NORMS:
        raise BadInput(f"unknown norm {name!r}: {did_you_mean(name, NORMS)}")
    return NORMS[name], name == "instance"


class ResidualBlock(nn.Module):
    """x + norm(conv(ReLU(norm(conv(x)))))), 3×3, borders reflected."""

    def __init__(self, channels: int, norm: str, dropout: float):
        super().__init__()
        make_norm, bias = norm_of(norm)
        conv = partial(nn.Conv2d, channels, channels, 3, padding=1, padding_mode="reflect", bias=bias)
        self.conv1, self.norm1 = conv(), make_norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2, self.norm2 = conv(), make_norm(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        h = self.dropout(F.relu(self.norm1(self.conv1(x)), inplace=True))
        return x + self.norm2(self.conv2(h))


class ResNetGenerator(nn.Module):
    """Images to images of the same sides, which are divisible by 4, on −1..1.

    Args:
        width: channels of the finest grid.
        blocks: residual blocks on the coarsest, four times as wide.
    """

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        width: int = 64,
        blocks: int = 9,
        norm: str = "instance",
        dropout: float = 0.0,
    ):
        super().__init__()
        if min(width, blocks) < 1:
            raise BadInput(f"a generator has at least 1 channel and 1 block, not {width} and {blocks}")
        make_norm, bias = norm_of(norm)
        outer = partial(nn.Conv2d, kernel_size=7, padding=3, padding_mode="reflect")
        layers: list[nn.Module] = [outer(inputs, width, bias=bias), make_norm(width), nn.ReLU(inplace=True)]
        for channels in (width, 2 * width):
            layers += [nn.Conv2d(channels, 2 * channels, 3, 2, 1, bias=bias), make_norm(2 * channels)]
            layers.append(nn.ReLU(inplace=True))
        layers += [ResidualBlock(4 * width, norm, dropout) for _ in range(blocks)]
        for channels in (2 * width, width):
            layers.append(nn.ConvTranspose2d(2 * channels, channels, 3, 2, 1, 1, bias=bias))
            layers += [make_norm(channels), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, outer(width, outputs), nn.Tanh())
        init_normal(self)

    def forward(self, x: Images) -> Images:
        return self.layers(x)


class UNetGenerator(nn.Module):
    """Images to images of the same sides, which are divisible by 2 ** depth, on −1..1.

    Args:
        width: channels of the finest grid.
        depth: number of times that the sides are halved.
        dropout: rate on the coarse grids, of all but the finest four and the coarsest.
    """

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        width: int = 64,
        depth: int = 8,
        norm: str = "batch",
        dropout: float = 0.5,
    ):
        super().__init__()
        if width < 1 or depth < 2:
            raise BadInput(f"a U-Net has at least 1 channel and a depth of 2, not {width} and {depth}")
        make_norm, bias = norm_of(norm)
        widths = [width * min(2**i, MAX_WIDENING) for i in range(depth)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, channels in enumerate(widths):
            conv = nn.Conv2d(inputs if i == 0 else widths[i - 1], channels, 4, 2, 1, bias=bias)
            has_norm = 0 < i < depth - 1
            self.down.append(nn.Sequential(conv, *([make_norm(channels)] if has_norm else [])))
        for i in reversed(range(depth)):  # from the coarsest; each but it also takes what went down
            channels = widths[i] if i == depth - 1 else 2 * widths[i]
            if i == 0:
                self.up.append(nn.Sequential(nn.ConvTranspose2d(channels, outputs, 4, 2, 1), nn.Tanh()))
                continue
            conv = nn.ConvTranspose2d(channels, widths[i - 1], 4, 2, 1, bias=bias)
            drops = [nn.Dropout(dropout)] if 4 <= i < depth - 1 else []
            self.up.append(nn.Sequential(conv, make_norm(widths[i - 1]), *drops))
        init_normal(self)

    def forward(self, x: Images) -> Images:
        skips: list[Tensor] = []
        for i, layer in enumerate(self.down):
            x = layer(F.leaky_relu(x, 0.2) if i else x)
            skips.append(x)
        x = self.up[0](F.relu(skips.pop()))
        for layer in self.up[1:]:
            x = layer(F.relu(torch.cat([skips.pop(), x], 1)))
        return x


class PatchDiscriminator(nn.Module):
    """Images to the logit of being real of each patch; patches overlap.

    Args:
        layers: convolutions of stride 2; three for patches of 70 × 70.
    """

    def __init__(self, inputs: int = 3, width: int = 64, layers: int = 3, norm: str = "instance"):
        super().__init__()
        if min(width, layers) < 1:
            raise BadInput(f"a discriminator has at least 1 channel and layer, not {width} and {layers}")
        make_norm, bias = norm_of(norm)
        parts: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        channels = width
        for i in range(1, layers + 1):
            wider, stride = width * min(2**i, MAX_WIDENING), 2 if i < layers else 1
            parts += [nn.Conv2d(channels, wider, 4, stride, 1, bias=bias), make_norm(wider)]
            parts.append(nn.LeakyReLU(0.2, inplace=True))
            channels = wider
        self.layers = nn.Sequential(*parts, nn.Conv2d(channels, 1, 4, 1, 1))
        init_normal(self)

    def forward(self, x: Images) -> Float[Tensor, "batch 1 rows columns"]:
        return self.layers(x)

    @staticmethod
    def check_side(layers: int, side: int) -> None:
        """
        Raises:
            BadInput: an image of such a side has no patch.
        """
        if side < 3 * 2**layers:
            raise BadInput(
                f"{layers} layers of the discriminator take images of at least {3 * 2**layers} pixels, "
                f"not {side}"
            )

    def patch_size(self) -> int:
        """The side of a patch, in pixels: from the last layer back, r ← (r − 1) · stride + kernel."""
        side = 1
        for conv in reversed([layer for layer in self.layers if isinstance(layer, nn.Conv2d)]):
            side = (side - 1) * conv.stride[0] + conv.kernel_size[0]
        return side
