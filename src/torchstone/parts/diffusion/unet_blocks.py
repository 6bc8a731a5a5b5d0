"""Building blocks of a denoising U-Net: timestep embedding, residual and attention blocks, stages.

Ronneberger, Fischer and Brox 2015 (the U shape, arXiv:1505.04597); Ho, Jain and Abbeel 2020 (these
blocks, arXiv:2006.11239, appendix B); Dhariwal and Nichol 2021 (time as scale and shift, resampling
blocks, arXiv:2105.05233); Rombach et al. 2021 (cross-attention to a text, arXiv:2112.10752).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

Maps = Float[Tensor, "batch channel height width"]


def timestep_embedding(
    t: Shaped[Tensor, " batch"], width: int, *, freq_shift: float = 0.0, flip_sin_to_cos: bool = True
) -> Float[Tensor, "batch width"]:
    """sin and cos of t · 10000^(−i / (width/2 − shift)), i = 0 … width/2 − 1; an odd width ends on zero.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, all sines in one half and all cosines in the
    other; Ho et al. shift by 1.

    Args:
        freq_shift: shift in the exponent's denominator.
        flip_sin_to_cos: cosines first.
    """
    half = width // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float32)
    angles = t[:, None].float() * torch.exp(-math.log(10_000) * exponents / (half - freq_shift))
    halves = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
    return F.pad(torch.cat(halves, 1), (0, width % 2))


class Downsample(nn.Module):
    """A convolution with stride 2; `padding` 0 pads after the last row and column alone, as Ho et al. do."""

    def __init__(self, channels: int, padding: int = 0):
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, 2, padding)

    def forward(self, x: Maps) -> Float[Tensor, "batch channel half_height half_width"]:
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbor upsampling by 2, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Maps) -> Float[Tensor, "batch channel twice_height twice_width"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResnetBlock(nn.Module):
    """x + conv₂(f(norm₂(conv₁(f(norm₁ x)) + W e))), e being the embedding of timestep and condition.

    Args:
        in_channels, out_channels: where they differ, a 1×1 convolution projects the residual.
        embed_dim: width of e, which is given with the activation applied; None for no embedding.
        groups: of each group norm.
        scale_shift: (1 + a) norm₂(·) + b with (a, b) = W e, instead of the sum inside.
        resample: "down" or "up": resample both branches, before the first convolution.
        divisor: of the sum at the end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embed_dim: int | None,
        *,
        groups: int = 32,
        eps: float = 1e-6,
        activation: str = "silu",
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: Literal["down", "up"] | None = None,
        divisor: float = 1.0,
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = None if embed_dim is None else nn.Linear(embed_dim, out_channels * (1 + scale_shift))
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.carry = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.activation, self.dropout = ACTIVATIONS[activation], dropout
        self.scale_shift, self.resample, self.divisor = scale_shift, resample, divisor

    def forward(
        self, x: Maps, e: Float[Tensor, "batch embed_dim"] | None = None
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        h = self.activation(self.norm1(x))
        if self.resample:
            x, h = self._resample(x), self._resample(h)
        h = self.conv1(h)
        if self.time is None:
            h = self.norm2(h)
        elif self.scale_shift:
            scale, shift = self.time(e)[:, :, None, None].chunk(2, 1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + self.time(e)[:, :, None, None])
        h = self.conv2(F.dropout(self.activation(h), self.dropout, self.training))
        h = self.carry(x) + h
        return h if self.divisor == 1 else h / self.divisor

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class AttentionBlock(nn.Module):
    """x + self-attention over all locations; with a text, then cross-attention from locations to tokens.

    Args:
        head_width: by default one head of all channels.
        groups: of the group norm before it; None for no norm.
        context: width of the text's hidden states; 0 for no text.
    """

    def __init__(
        self,
        channels: int,
        *,
        head_width: int | None = None,
        groups: int | None = 32,
        eps: float = 1e-6,
        divisor: float = 1.0,
        context: int = 0,
    ):
        super().__init__()
        width = head_width or channels
        if channels < width:
            raise ValueError(f"{channels} channels are too few for a head of {width}")
        norm = nn.Identity() if groups is None else nn.GroupNorm(groups, channels, eps)
        self.norm, self.divisor = norm, divisor
        self.attention = MultiHeadAttention(channels, channels // width, head_dim=width)
        self.text = None
        if context:
            self.text_norm = nn.LayerNorm(channels)
            self.widen = nn.Linear(context, channels)
            self.text = MultiHeadAttention(channels, channels // width, head_dim=width)

    def forward(
        self,
        x: Maps,
        text: Float[Tensor, "batch tokens context"] | None = None,
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Maps:
        h = x.flatten(2).transpose(1, 2)
        h = h + self.attention(self.norm(x).flatten(2).transpose(1, 2))
        if self.text is not None and text is not None:
            keys = None if mask is None else mask[:, None, None]
            h = h + self.text(self.text_norm(h), self.widen(text), mask=keys)
        h = h.transpose(1, 2).unflatten(2, x.shape[2:])
        if x.is_contiguous():  # group norms are slow in channels-last layout
            h = h.contiguous()
        return h if self.divisor == 1 else h / self.divisor


# ------------------------------------------------------------------------ stages, one a resolution

MakeBlock = Callable[..., ResnetBlock]  # (in_channels, out_channels, resample=)
# (channels) -> what is called with (maps, text, mask): an `AttentionBlock`, a `SpatialTransformer`
MakeAttention = Callable[[int], nn.Module]


class Stage(nn.Module):
    """Residual blocks at one resolution, attention after each or after none, then perhaps resampling.

    On the way down the output of every block, and the downsampled map, is appended to `skips`; on the way up
    (`is_up`) every block's input is concatenated with the last of `skips`.
    """

    def __init__(
        self,
        blocks: Iterable[ResnetBlock],
        attentions: Iterable[nn.Module],
        resize: nn.Module | None,
        *,
        is_up: bool,
    ):
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.resize, self.is_up = resize, is_up

    def forward(
        self,
        x: Maps,
        e: Float[Tensor, "batch embed_dim"],
        skips: list[Tensor],
        text: Float[Tensor, "batch tokens context"] | None = None,
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        for number, block in enumerate(self.blocks):
            if self.is_up:  # into the same name: what was joined is not held while the block works
                x = torch.cat([x, skips.pop()], 1)
            x = block(x, e)
            if self.attentions:
                x = self.attentions[number](x, text, mask)
            if not self.is_up:
                skips.append(x)
        if self.resize is not None:
            x = resample(self.resize, x, e)
            if not self.is_up:
                skips.append(x)
        return x


def resample(layer: nn.Module, x: Tensor, e: Tensor) -> Tensor:
    """`x` through a `Downsample`, an `Upsample`, or a `ResnetBlock` that does either."""
    return layer(x, e) if isinstance(layer, ResnetBlock) else layer(x)


def build_down(
    widths: Sequence[int],
    attention: Sequence[bool],
    convolve: Sequence[bool],
    depth: int,
    make_block: MakeBlock,
    make_attention: MakeAttention,
    padding: int,
) -> tuple[nn.ModuleList, list[int]]:
    """The stages from the finest resolution to the coarsest, and the channels of each skip connection."""
    stages, skip_channels, last = [], [widths[0]], len(widths) - 1
    for i, width in enumerate(widths):
        channels = pairwise([skip_channels[-1], *[width] * depth])
        blocks = [make_block(inputs, outputs) for inputs, outputs in channels]
        resize = None
        if i < last:
            resize = Downsample(width, padding) if convolve[i] else make_block(width, width, resample="down")
        attentions = [make_attention(width) for _ in blocks if attention[i]]
        stages.append(Stage(blocks, attentions, resize, is_up=False))
        skip_channels += [width] * (depth + (i < last))
    return nn.ModuleList(stages), skip_channels


def build_up(
    widths: Sequence[int],
    attention: Sequence[bool],
    convolve: Sequence[bool],
    skip_channels: list[int],
    depth: int,
    make_block: MakeBlock,
    make_attention: MakeAttention,
) -> nn.ModuleList:
    """The stages on the way up, `widths` from the coarsest resolution to the finest; they use up all of
    `skip_channels`."""
    stages, above, last, skip_channels = [], widths[0], len(widths) - 1, list(skip_channels)
    for i, width in enumerate(widths):
        inputs = [above, *[width] * depth]
        blocks = [make_block(channels + skip_channels.pop(), width) for channels in inputs]
        resize = None
        if i < last:
            resize = Upsample(width) if convolve[i] else make_block(width, width, resample="up")
        attentions = [make_attention(width) for _ in blocks if attention[i]]
        stages.append(Stage(blocks, attentions, resize, is_up=True))
        above = width
    return nn.ModuleList(stages)
