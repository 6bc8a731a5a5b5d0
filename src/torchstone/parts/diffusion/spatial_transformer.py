"""The transformer of latent diffusion's U-Net: locations attend to each other and to a text.

Rombach et al. 2021 (arXiv:2112.10752), section 3.3 and appendix E.2.1. The feed-forward network has a GELU
gate (Shazeer 2020, arXiv:2002.05202).

    h = proj_in(norm(x))                          locations as tokens
    h = h + self-attention(LN h);   h = h + attention(LN h, text);   h = h + feed-forward(LN h)
    x + proj_out(h)
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torchstone.parts.diffusion.unet_blocks import Maps
from torchstone.parts.transformer.attention import MultiHeadAttention, attention
from torchstone.parts.transformer.feed_forward import FeedForward

Tokens = Float[Tensor, "batch tokens width"]


class TextAttention(nn.Module):
    """Attention from locations to a text of another width; queries, keys and values have no bias.

    Args:
        context: width of the text's hidden states.
    """

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(context, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tokens, text: Float[Tensor, "batch words context"]) -> Tokens:
        q, k, v = (
            each.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for each in (self.q(x), *self.kv(text).chunk(2, 2))
        )
        return self.out(attention(q, k, v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward network; each pre-norm with a residual.

    `attention_slices` is the number of parts that the heads of self-attention are computed in, one after
    another: 1 at once, more with less memory and the same numbers.
    """

    def __init__(self, width: int, heads: int, context: int, dropout: float = 0.0):
        super().__init__()
        self.attention_slices = 1
        self.norm1 = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, bias=False, out_bias=True)
        self.norm2 = nn.LayerNorm(width)
        self.text = TextAttention(width, heads, context)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, 4 * width, "gelu", gated=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tokens, text: Float[Tensor, "batch words context"]) -> Tokens:
        h = h + self.dropout(self._self_attention(self.norm1(h)))
        h = h + self.dropout(self.text(self.norm2(h), text))
        return h + self.dropout(self.feed_forward(self.norm3(h)))

    def _self_attention(self, h: Tokens) -> Tokens:
        if self.attention_slices == 1:
            return self.attention(h)
        q, k, v = self.attention.project(h)
        size = -(-q.shape[1] // self.attention_slices)
        parts = [attention(*each) for each in zip(*(x.split(size, 1) for x in (q, k, v)), strict=True)]
        return self.attention.out(torch.cat(parts, 1).transpose(1, 2).flatten(2))


class SpatialTransformer(nn.Module):
    """x + transformer blocks over all locations of x.

    Args:
        heads: number of heads.
        context: width of the text's hidden states.
        depth: number of blocks.
        groups: of the group norm.
        linear: projections in and out are linear layers (Stable Diffusion 2), not 1 × 1 convolutions.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context: int,
        *,
        depth: int = 1,
        groups: int = 32,
        linear: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, context, dropout) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(
        self,
        x: Maps,
        text: Float[Tensor, "batch words context"],
        mask: Bool[Tensor, "batch words"] | None = None,
    ) -> Maps:
        """`mask` is not used: all words of a text are attended to, those that fill it up too."""
        shape, h = x.shape[2:], self.norm(x)
        if self.linear:
            h = self.proj_in(h.flatten(2).transpose(1, 2))
        else:
            h = self.proj_in(h).flatten(2).transpose(1, 2)
        for block in self.blocks:
            h = block(h, text)
        if self.linear:
            h = self.proj_out(h).transpose(1, 2).unflatten(2, shape)
        else:
            h = self.proj_out(h.transpose(1, 2).unflatten(2, shape))
        return h + x
