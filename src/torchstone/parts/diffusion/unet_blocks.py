"""What a denoising U-Net is built of: time as waves, residual blocks that know it, attention over places.

Ronneberger, Fischer and Brox 2015 (the shape, arXiv:1505.04597); Ho, Jain and Abbeel 2020 (these
blocks, arXiv:2006.11239, appendix B); Dhariwal and Nichol 2021 (time as scale and shift, blocks that
halve and double, arXiv:2105.05233); Rombach et al. 2021 (attention to a text, arXiv:2112.10752).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import ACTIVATIONS

Maps = Float[Tensor, "batch channel height width"]


def waves(
    t: Shaped[Tensor, " batch"], width: int, *, shift: float = 0.0, cosine_first: bool = True
) -> Float[Tensor, "batch width"]:
    """sin and cos of t · 10000^(−i / (width/2 − shift)), i = 0 … width/2 − 1; an odd width ends on zero.

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, each kind in one half; Ho et al. shift by 1.
    """
    half = width // 2
    places = torch.arange(half, device=t.device, dtype=torch.float32)
    turns = t[:, None].float() * torch.exp(-math.log(10_000) * places / (half - shift))
    both = (turns.cos(), turns.sin()) if cosine_first else (turns.sin(), turns.cos())
    return F.pad(torch.cat(both, 1), (0, width % 2))


class Halve(nn.Module):
    """A convolution with stride 2; `padding` 0 pads after the last row and column alone, as Ho et al. do."""

    def __init__(self, channels: int, padding: int = 0):
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, 2, padding)

    def forward(self, x: Maps) -> Float[Tensor, "batch channel half_height half_width"]:
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    """Each place becomes four, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Maps) -> Float[Tensor, "batch channel twice_height twice_width"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.Module):
    """x + conv₂(f(norm₂(conv₁(f(norm₁ x)) + W e))), e being what is known of time and condition.

    Args:
        inputs, outputs: channels; where they differ, a 1×1 convolution carries x over.
        inner: width of e, which is given with the activation applied.
        groups: of each norm's channels.
        scale_shift: (1 + a) norm₂(·) + b with (a, b) = W e, instead of the sum inside.
        resize: "halve" or "double" the grid, in both ways, before the first convolution.
        divisor: of the sum at the end.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        inner: int,
        *,
        groups: int = 32,
        eps: float = 1e-6,
        activation: str = "silu",
        dropout: float = 0.0,
        scale_shift: bool = False,
        resize: Literal["halve", "double"] | None = None,
        divisor: float = 1.0,
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(inner, outputs * (1 + scale_shift))
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.carry = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.activation, self.dropout = ACTIVATIONS[activation], dropout
        self.scale_shift, self.resize, self.divisor = scale_shift, resize, divisor

    def forward(
        self, x: Maps, e: Float[Tensor, "batch inner"]
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        h = self.activation(self.norm1(x))
        if self.resize:
            x, h = self._resized(x), self._resized(h)
        h, told = self.conv1(h), self.time(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, 1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + told)
        h = self.conv2(F.dropout(self.activation(h), self.dropout, self.training))
        h = self.carry(x) + h
        return h if self.divisor == 1 else h / self.divisor

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize == "halve":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Attend(nn.Module):
    """x + attention of every place to every place, and where there is a text, of every place to it.

    Args:
        head_width: by default one head of all channels.
        groups: of the norm before it; None for no norm.
        context: width of the text's tokens; 0 for none.
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
            raise ValueError(f"{channels} channels hold no head of {width}")
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
        text: Float[Tensor, "batch places context"] | None = None,
        mask: Bool[Tensor, "batch places"] | None = None,
    ) -> Maps:
        h = x.flatten(2).transpose(1, 2)
        h = h + self.attention(self.norm(x).flatten(2).transpose(1, 2))
        if self.text is not None and text is not None:
            seen = None if mask is None else mask[:, None, None]
            h = h + self.text(self.text_norm(h), self.widen(text), mask=seen)
        h = h.transpose(1, 2).unflatten(2, x.shape[2:])
        if x.is_contiguous():  # norms of groups are slow where places lie before channels
            h = h.contiguous()
        return h if self.divisor == 1 else h / self.divisor
