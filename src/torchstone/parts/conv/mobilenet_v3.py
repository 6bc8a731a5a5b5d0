"""The backbone of MobileNetV3-Large: feature maps without a classifier.

Howard et al. 2019, arXiv:1905.02244: inverted residual blocks, some with squeeze-excitation gated by
the hard sigmoid, and in the later ones h-swish, x·ReLU6(x + 3)/6.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.conv.convolution import conv_norm_act, make_divisible

# table 1: kernel, expansion, outputs, squeeze-excitation, h-swish, stride
TABLE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
LAST = 3  # blocks at the coarsest resolution
EARLY = 4  # index of the first block at output stride 8; the first layer is 0
FEATURE_CHANNELS = (40, 960)  # channels of `backbone_features`

norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """1×1 up, depthwise, squeeze-excitation, 1×1 down; plus the input where shapes agree.

    Args:
        row: of the table.
        dilation: above 1, the block has no stride and dilates its filters.
    """

    def __init__(self, inputs: int, row: Sequence[int], dilation: int = 1):
        super().__init__()
        kernel, expanded, outputs, has_se, has_hswish, stride = row
        act = nn.Hardswish if has_hswish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(conv_norm_act(inputs, expanded, 1, norm=norm, act=act))
        depthwise = conv_norm_act(
            expanded,
            expanded,
            kernel,
            stride if dilation == 1 else 1,
            groups=expanded,
            dilation=dilation,
            norm=norm,
            act=act,
        )
        layers.append(depthwise)
        if has_se:
            squeezed = make_divisible(expanded / 4)
            layers.append(SqueezeExcitation(expanded, squeezed, gate=F.hardsigmoid))
        layers.append(conv_norm_act(expanded, outputs, 1, norm=norm, act=None))
        self.block = nn.Sequential(*layers)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height2 width2"]:
        return x + self.block(x) if self.is_residual else self.block(x)


def mobilenet_v3_backbone(channels: int = 3, dilation: int = 1) -> nn.Sequential:
    """First layer, blocks, 1×1; a `dilation` of 2 dilates the last blocks in place of the last stride."""
    layers: list[nn.Module] = [conv_norm_act(channels, 16, 3, 2, norm=norm, act=nn.Hardswish)]
    inputs = 16
    for i, row in enumerate(TABLE):
        layers.append(InvertedResidual(inputs, row, dilation if i >= len(TABLE) - LAST else 1))
        inputs = row[2]
    layers.append(conv_norm_act(inputs, 6 * inputs, 1, norm=norm, act=nn.Hardswish))
    return nn.Sequential(*layers)


def backbone_features(
    net: nn.Sequential, images: Float[Tensor, "batch channels height width"]
) -> tuple[Float[Tensor, "batch 40 h w"], Float[Tensor, "batch 960 h2 w2"]]:
    """Feature maps of `mobilenet_v3_backbone` at output stride 8, and its last ones."""
    early = net[: EARLY + 1](images)
    return early, net[EARLY + 1 :](early)
