"""The encoder layer of BERT, ALBERT and DistilBERT: normalized after each addition."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import FeedForward


class PostNormBlock(nn.Module):
    """Self-attention, then the feed-forward network, each followed by addition and layer norm (Vaswani et al.
    2017, arXiv:1706.03762, section 3.1).

    Args:
        d_ff: width of the hidden layer of the feed-forward network.
        dropout: dropout probability of what is added.
        attention_dropout: dropout probability of the attention weights.
        eps: of the norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        d_ff: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float = 1e-12,
    ):
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout=attention_dropout)
        self.norm1 = nn.LayerNorm(width, eps)
        self.feed_forward = FeedForward(width, d_ff, activation)
        self.norm2 = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b t width"], mask: Bool[Tensor, "b 1 1 t"] | None = None
    ) -> Float[Tensor, "b t width"]:
        """The mask is True where there is a token to attend to."""
        # h = LN(x + attention(x)),   LN(h + W₂ f(W₁ h))
        h = self.norm1(x + self.dropout(self.attention(x, mask=mask)))
        return self.norm2(h + self.dropout(self.feed_forward(h)))


def make_block(config: Any) -> PostNormBlock:
    """A block by an architecture's fields `width`, `heads`, `d_ff`, `activation`, `dropout`,
    `attention_dropout` and `eps`."""
    return PostNormBlock(
        config.width,
        config.heads,
        config.d_ff,
        activation=config.activation,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        eps=config.eps,
    )
