"""Scores of recurrent translation: how well each word read fits what is to be written next.

For a decoder's state s and the encoder's state h of a word, both of which the networks below compare:

    additive  vᵀ tanh(W s + U h)    Bahdanau et al. 2014 (arXiv:1409.0473), appendix A.1.2
    concat    vᵀ tanh(W [s; h])     Luong et al. 2015 (arXiv:1508.04025), equation 8
    general   sᵀ W h
    dot       sᵀ h

What a score makes of the words alone (`keys`) does not change while a sentence is written, and is
computed once.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torchstone.errors import BadInput

SCORES = ("additive", "concat", "general", "dot")
Queries = Float[Tensor, "batch queries width"]
Memory = Float[Tensor, "batch words read"]
Scores = Float[Tensor, "batch queries words"]


class AdditiveAttention(nn.Module):
    """vᵀ tanh(W s + U h + b); without the bias it is `concat` too, whose matrix is W beside U.

    Args:
        query: width of s; `read`: width of h; `hidden`: units that compare them.
    """

    def __init__(self, query: int, read: int, hidden: int, bias: bool = False):
        super().__init__()
        self.W = nn.Linear(query, hidden, bias=bias)
        self.U = nn.Linear(read, hidden, bias=False)
        self.v = nn.Parameter(torch.empty(hidden))
        nn.init.uniform_(self.v, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def keys(self, memory: Memory) -> Float[Tensor, "batch words hidden"]:
        return self.U(memory)

    def forward(self, query: Queries, keys: Float[Tensor, "batch words hidden"]) -> Scores:
        return (self.W(query)[:, :, None] + keys[:, None]).tanh() @ self.v


class MultiplicativeAttention(nn.Module):
    """sᵀ W h (`general`), or sᵀ h (`dot`), for which both are of one width."""

    def __init__(self, query: int, read: int, general: bool = True):
        super().__init__()
        if not general and query != read:
            raise BadInput(f"dot compares states of one width, not of {query} and {read}")
        self.W = nn.Linear(read, query, bias=False) if general else nn.Identity()

    def keys(self, memory: Memory) -> Float[Tensor, "batch words width"]:
        return self.W(memory)

    def forward(self, query: Queries, keys: Float[Tensor, "batch words width"]) -> Scores:
        return query @ keys.transpose(1, 2)


def make_score(
    kind: str, query: int, read: int, hidden: int | None = None, *, bias: bool = False
) -> AdditiveAttention | MultiplicativeAttention:
    """The score named `kind`, of states `query` and `read` wide; `hidden` units compare them, by
    default as many as `query`.

    Raises:
        BadInput: an unknown kind, or `dot` of different widths.
    """
    if kind not in SCORES:
        raise BadInput(f"unknown score {kind!r}: {', '.join(SCORES)}")
    if kind in ("additive", "concat"):
        return AdditiveAttention(query, read, hidden or query, bias and kind == "additive")
    return MultiplicativeAttention(query, read, kind == "general")


def attend(
    scores: Scores, memory: Memory, mask: Bool[Tensor, "batch words"] | None = None
) -> tuple[Float[Tensor, "batch queries read"], Scores]:
    """Contexts Σⱼ αᵢⱼ hⱼ and the shares α, the softmax of the scores.

    Args:
        mask: True where there is a word; padding gets nothing. Where there is no word at all, context
            and shares are zero.
    """
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
    shares = scores.softmax(2)
    if mask is not None:
        shares = shares * mask[:, None]
    return shares @ memory, shares
