"""A small encoder of texts, for networks that are told in words what to make; and what it makes of them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import FeedForward

PAD, START, UNKNOWN = 0, 1, 2  # ids: nothing, what every text begins with, a word never seen


class Layer(nn.Module):
    """Attention and the feed-forward network, norms first; each adds to its input."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads)
        self.feed = FeedForward(width, 4 * width, "gelu")
        self.dropout = dropout

    def forward(
        self, h: Float[Tensor, "batch places width"], mask: Bool[Tensor, "batch places"]
    ) -> Float[Tensor, "batch places width"]:
        p, training = self.dropout, self.training
        seen = mask[:, None, None]
        h = h + F.dropout(self.attention(self.norm1(h), mask=seen), p, training)
        return h + F.dropout(self.feed(self.norm2(h)), p, training)


class Reader(nn.Module):
    """Tokens and places, layers in which all tokens see each other, a norm.

    The same order as Vaswani et al. 2017 (arXiv:1706.03762), norms first. The first token is `START`,
    and behind the last come `PAD`s; an empty text is `START` alone.

    Args:
        vocabulary: ids there are, `PAD` and `START` included.
        length: places at most.
        forget: the share of words that are `UNKNOWN` in training: of these too something has to be made.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        forget: float = 0.0,
    ):
        super().__init__()
        self.length, self.forget = length, forget
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList([Layer(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=width**-0.5)

    def forward(
        self, ids: Int64[Tensor, "batch places"]
    ) -> tuple[Float[Tensor, "batch places width"], Bool[Tensor, "batch places"]]:
        """Hidden states, and True where there is a token."""
        mask = ids != PAD
        if self.training and self.forget:
            forgotten = torch.rand(ids.shape, device=ids.device) < self.forget
            ids = torch.where(forgotten & (ids > START), UNKNOWN, ids)
        h = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for layer in self.layers:
            h = layer(h, mask)
        return self.norm(h), mask

    def empty(self, count: int, device: torch.device) -> Int64[Tensor, "count length"]:
        """The ids of `count` empty texts."""
        ids = torch.full((count, self.length), PAD, device=device)
        ids[:, 0] = START
        return ids


def mean(
    text: Float[Tensor, "batch places width"], mask: Bool[Tensor, "batch places"]
) -> Float[Tensor, "batch width"]:
    """Of a text's tokens, which a short training learns to use sooner than one of them."""
    share = mask[..., None] / mask.sum(1)[:, None, None]
    return (text * share).sum(1)


class Sketch(nn.Module):
    """A coarse picture of what a text's words, their mean, stand for.

    Learned by its own squared error, as the encoder's of Popov et al. 2021 (Grad-TTS, arXiv:2105.06337,
    section 3), it is there long before a network has learned to hear words through noise.

    Args:
        width: of the text's tokens.
        hidden: units between.
        shape: (channel, height, width) of the picture.
    """

    def __init__(self, width: int, hidden: int, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, torch.Size(self.shape).numel())

    def forward(self, said: Float[Tensor, "batch inner"]) -> Float[Tensor, "batch channel height width"]:
        return self.out(F.silu(self.hidden(said))).unflatten(1, self.shape)
