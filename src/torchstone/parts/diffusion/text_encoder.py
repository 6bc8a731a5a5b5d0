"""A small transformer encoder for captions, and a head that predicts a coarse image from them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import FeedForward

PAD, START, UNKNOWN = 0, 1, 2  # token ids: padding, start of every text, word outside the vocabulary


class Layer(nn.Module):
    """Pre-norm transformer layer: self-attention and the feed-forward network, each with a residual."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads)
        self.mlp = FeedForward(width, 4 * width, "gelu")
        self.dropout = dropout
        accept_old_keys(self, {"feed.": "mlp."})

    def forward(
        self, h: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens width"]:
        p, training = self.dropout, self.training
        keys = mask[:, None, None]
        h = h + F.dropout(self.attention(self.norm1(h), mask=keys), p, training)
        return h + F.dropout(self.mlp(self.norm2(h)), p, training)


class TextEncoder(nn.Module):
    """Token and position embeddings, pre-norm layers of bidirectional attention, a final norm.

    The encoder of Vaswani et al. 2017 (arXiv:1706.03762) with the norms first. The first token is `START`,
    and the last is followed by `PAD`s; an empty text is `START` alone.

    Args:
        vocab_size: number of token ids, `PAD` and `START` included.
        max_length: number of tokens at most.
        dropout: dropout probability.
        word_dropout: share of words that are replaced by `UNKNOWN` in training, so that samples of a
            prompt with unknown words are sensible too.
    """

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
    ):
        super().__init__()
        self.max_length, self.word_dropout = max_length, word_dropout
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(max_length, width)
        self.layers = nn.ModuleList([Layer(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        for embedding in (self.token_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=width**-0.5)
        accept_old_keys(self, {"tokens.": "token_embedding.", "places.": "position_embedding."})

    def forward(
        self, ids: Int64[Tensor, "batch tokens"]
    ) -> tuple[Float[Tensor, "batch tokens width"], Bool[Tensor, "batch tokens"]]:
        """Hidden states, and a mask that is True where there is a token."""
        mask = ids != PAD
        if self.training and self.word_dropout:
            dropped = torch.rand(ids.shape, device=ids.device) < self.word_dropout
            ids = torch.where(dropped & (ids > START), UNKNOWN, ids)
        h = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        for layer in self.layers:
            h = layer(h, mask)
        return self.norm(h), mask

    def empty(self, count: int, device: torch.device) -> Int64[Tensor, "count length"]:
        """The ids of `count` empty texts."""
        ids = torch.full((count, self.max_length), PAD, device=device)
        ids[:, 0] = START
        return ids


def masked_mean(
    text: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch width"]:
    """The mean hidden state of a text's tokens; short training learns to use it sooner than one token's."""
    dtype = torch.promote_types(text.dtype, torch.float32)
    share = mask[..., None].to(dtype) / mask.sum(1)[:, None, None]
    return (text * share).sum(1)


class CoarseImageHead(nn.Module):
    """A low-resolution image of what a text describes, from the mean hidden state of its tokens.

    It is trained by a squared error of its own, as the encoder's output of Popov et al. 2021 (Grad-TTS,
    arXiv:2105.06337, section 3), and is there long before a network has learned to use words in noise.

    Args:
        width: of the hidden states.
        hidden: number of hidden units.
        shape: (channel, height, width) of the image.
    """

    def __init__(self, width: int, hidden: int, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, torch.Size(self.shape).numel())

    def forward(self, text: Float[Tensor, "batch width"]) -> Float[Tensor, "batch channel height width_"]:
        return self.out(F.silu(self.hidden(text))).unflatten(1, self.shape)
