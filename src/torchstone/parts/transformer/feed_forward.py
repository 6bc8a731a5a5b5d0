"""The position-wise feed-forward network (MLP) of a transformer block."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# by the names that published configurations use
ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "quick_gelu": lambda x: x * (1.702 * x).sigmoid(),
    "tanh": F.tanh,
}


class FeedForward(nn.Module):
    """W₂ f(W₁x), or with a gate W₂ (f(W_g x) ⊙ W₁x) (Shazeer 2020, arXiv:2002.05202).

    Args:
        d_ff: width of the hidden layer.
        activation: f, one of `ACTIVATIONS`.
        dropout: dropout probability of the hidden layer.
    """

    def __init__(
        self,
        width: int,
        d_ff: int,
        activation: str = "relu",
        *,
        gated: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.up = nn.Linear(width, d_ff, bias=bias)
        self.gate = nn.Linear(width, d_ff, bias=bias) if gated else None
        self.down = nn.Linear(d_ff, width, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        if self.gate is None:
            y = self.activation(self.up(x))
        else:
            y = self.activation(self.gate(x)) * self.up(x)
        if self.dropout:
            y = F.dropout(y, self.dropout, self.training)
        return self.down(y)
