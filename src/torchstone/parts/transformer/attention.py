"""Attention: for each query a mean of values, weighted by how well their keys fit it."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Heads = Float[Tensor, "batch heads queries width"]


def attention(
    q: Heads,
    k: Float[Tensor, "batch heads keys width"],
    v: Float[Tensor, "batch heads keys values"],
    *,
    mask: Bool[Tensor, "#batch #heads #queries keys"] | None = None,
    bias: Float[Tensor, "#batch #heads #queries keys"] | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads queries values"]:
    """softmax(scale QKᵀ + bias) V by torch's fused kernels, where they are the fast way.

    Vaswani et al. 2017 (arXiv:1706.03762), equation 1.

    Args:
        mask: True where a query may look. One that may look nowhere gets zeros.
        bias: added to the scores.
        causal: a query sees keys up to its own place; the queries are the last of the keys' places.
        scale: of the products; by default 1/√width.
        dropout: share of weights that are dropped; 0 outside training.
    """
    queries, keys = q.shape[2], k.shape[2]
    if causal and queries > 1 and (queries != keys or mask is not None or bias is not None):
        seen = _seen(queries, keys, q.device)
        mask = seen if mask is None else mask & seen
    causal = causal and queries > 1 and mask is None
    # on a CPU the fused way back takes up to eight times as long as this in bfloat16
    low = q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad
    written = low and keys <= 256 and not dropout
    if mask is None:
        if written:
            return attention_weights(q, k, bias=bias, causal=causal, scale=scale) @ v
        return F.scaled_dot_product_attention(q, k, v, bias, dropout, is_causal=causal, scale=scale)
    some = mask.any(-1, keepdim=True)
    # a row without a key is given them all, then nothing: no kernel has to divide by zero
    mask = mask | ~some
    if written:
        return attention_weights(q, k, mask=mask, bias=bias, scale=scale) @ v * some
    if bias is not None:
        mask = torch.where(mask, bias, -torch.inf)
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    return out * some


def attention_weights(
    q: Heads,
    k: Float[Tensor, "batch heads keys width"],
    *,
    mask: Bool[Tensor, "#batch #heads #queries keys"] | None = None,
    bias: Float[Tensor, "#batch #heads #queries keys"] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "batch heads queries keys"]:
    """softmax(scale QKᵀ + bias), written out: for pictures, and to hold `attention` against."""
    scores = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    if causal:
        seen = _seen(q.shape[2], k.shape[2], q.device)
        mask = seen if mask is None else mask & seen
    if mask is None:
        return scores.softmax(-1)
    scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).masked_fill(~mask.any(-1, keepdim=True), 0.0)


def _seen(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "1 1 queries keys"]:
    everything = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device)
    return everything.tril(keys - queries)


class KVCache:
    """Keys and values that one layer has seen, so that they are computed once.

    Room for `length` places is taken at the first call; what is given back is a view of it.
    """

    def __init__(self, length: int):
        self.length, self.seen = length, 0
        self.keys = self.values = torch.empty(0)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, those of (batch, heads, new, width) included."""
        if not self.seen:
            batch, heads, _, width = k.shape
            self.keys = k.new_empty(batch, heads, self.length, width)
            self.values = v.new_empty(batch, heads, self.length, v.shape[3])
        end = self.seen + k.shape[2]
        if end > self.length:
            raise ValueError(f"{end} places, but room for {self.length}")
        self.keys[:, :, self.seen : end] = k
        self.values[:, :, self.seen : end] = v
        self.seen = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reorder(self, rows: Int64[Tensor, " batch"]) -> None:
        """Row i becomes what row `rows[i]` was: beams survive, end or split."""
        if self.seen:
            self.keys, self.values = self.keys[rows], self.values[rows]


class MultiHeadAttention(nn.Module):
    """Attention in several subspaces at once (Vaswani et al. 2017, section 3.2.2).

    Args:
        width: of inputs and outputs.
        heads: how many; each has `head_width` (by default width / heads).
        bias: of the three projections; of the last one too, unless `out_bias` says otherwise.
        scale: of the products; by default 1/√head_width.
        dropout: share of attention weights dropped in training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        head_dim: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        if head_dim is None and width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads")
        self.heads, self.head_dim = heads, head_dim or width // heads
        self.scale, self.dropout = scale, dropout
        self.inner_dim = heads * self.head_dim
        self.qkv = nn.Linear(width, 3 * self.inner_dim, bias=bias)  # in one product: they are small
        self.out = nn.Linear(self.inner_dim, width, bias=bias if out_bias is None else out_bias)

    def forward(
        self,
        x: Float[Tensor, "batch queries width"],
        memory: Float[Tensor, "batch keys width"] | None = None,
        *,
        mask: Bool[Tensor, "#batch #heads #queries keys"] | None = None,
        bias: Float[Tensor, "#batch #heads #queries keys"] | None = None,
        causal: bool = False,
        past: KVCache | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Attention of `x` to itself, or to `memory` (whose keys `past` then holds from the first call on)."""
        q, k, v = self.project(x, memory, past)
        dropout = self.dropout if self.training else 0.0
        y = attention(q, k, v, mask=mask, bias=bias, causal=causal, scale=self.scale, dropout=dropout)
        return self.out(y.transpose(1, 2).flatten(2))

    def project(
        self, x: Tensor, memory: Tensor | None = None, past: KVCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads, places, head_width)."""
        if memory is None:
            q, k, v = self._split(self.qkv(x), 3)
            return (q, k, v) if past is None else (q, *past.append(k, v))
        (q,) = self._split(self._linear(x, 0, self.inner_dim), 1)
        if past is not None and past.seen:
            return q, past.keys, past.values
        k, v = self._split(self._linear(memory, self.inner_dim, 3 * self.inner_dim), 2)
        return (q, k, v) if past is None else (q, *past.append(k, v))

    def _linear(self, x: Tensor, first: int, last: int) -> Tensor:
        bias = self.qkv.bias
        return F.linear(x, self.qkv.weight[first:last], None if bias is None else bias[first:last])

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        shape = (self.heads, self.head_dim)
        return tuple(part.unflatten(2, shape).transpose(1, 2) for part in x.chunk(parts, 2))
