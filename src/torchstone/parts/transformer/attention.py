"""Scaled dot-product attention, multi-head attention, and the cache of keys and values."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Queries = Float[Tensor, "batch heads queries head_dim"]
Keys = Float[Tensor, "batch heads keys head_dim"]
Mask = Bool[Tensor, "#batch #heads #queries keys"]
Bias = Float[Tensor, "#batch #heads #queries keys"]


def attention(
    q: Queries,
    k: Keys,
    v: Float[Tensor, "batch heads keys values"],
    *,
    mask: Mask | None = None,
    bias: Bias | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads queries values"]:
    """softmax(scale QKᵀ + bias) V, with torch's fused kernels where they are the fast path.

    Vaswani et al. 2017 (arXiv:1706.03762), equation 1.

    Args:
        mask: True where a query may attend to a key. A query without any key gives zeros.
        bias: added to the scores.
        causal: a query attends to keys up to its own position; the queries are the last of the keys'
            positions.
        scale: factor of the scores; by default 1/√head_dim.
        dropout: dropout probability of the attention weights; 0 outside training.
    """
    queries, keys = q.shape[2], k.shape[2]
    if causal and queries > 1 and (queries != keys or mask is not None or bias is not None):
        visible = _causal_mask(queries, keys, q.device)
        mask = visible if mask is None else mask & visible
    causal = causal and queries > 1 and mask is None
    # on a CPU the fused backward pass takes up to eight times as long as this in bfloat16
    low = q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad
    explicit = low and keys <= 256 and not dropout
    if mask is None:
        if explicit:
            return attention_weights(q, k, bias=bias, causal=causal, scale=scale) @ v
        return F.scaled_dot_product_attention(q, k, v, bias, dropout, is_causal=causal, scale=scale)
    has_keys = mask.any(-1, keepdim=True)
    # a query without keys attends to all of them and is zeroed afterwards: no kernel divides by zero
    mask = mask | ~has_keys
    if explicit:
        return attention_weights(q, k, mask=mask, bias=bias, scale=scale) @ v * has_keys
    if bias is not None:
        mask = torch.where(mask, bias, -torch.inf)
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    return out * has_keys


def attention_weights(
    q: Queries,
    k: Keys,
    *,
    mask: Mask | None = None,
    bias: Bias | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "batch heads queries keys"]:
    """softmax(scale QKᵀ + bias), written out: for plots, and as the reference for `attention`."""
    scores = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    if causal:
        visible = _causal_mask(q.shape[2], k.shape[2], q.device)
        mask = visible if mask is None else mask & visible
    if mask is None:
        return scores.softmax(-1)
    scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).masked_fill(~mask.any(-1, keepdim=True), 0.0)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "1 1 queries keys"]:
    return torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


class KVCache:
    """Keys and values of one attention layer, so that each position's are computed only once.

    Memory for `max_length` positions is allocated at the first call; what `append` returns is a view of it.
    """

    def __init__(self, max_length: int):
        self.max_length, self.length = max_length, 0
        self.keys = self.values = torch.empty(0)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, including the new ones, each (batch, heads, new, width)."""
        if not self.length:
            batch, heads, _, width = k.shape
            self.keys = k.new_empty(batch, heads, self.max_length, width)
            self.values = v.new_empty(batch, heads, self.max_length, v.shape[3])
        end = self.length + k.shape[2]
        if end > self.max_length:
            raise ValueError(f"{end} positions, but the cache holds {self.max_length}")
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reorder(self, rows: Int64[Tensor, " batch"]) -> None:
        """Row i becomes what row `rows[i]` was: for beams that survive, end or split."""
        if self.length:
            self.keys, self.values = self.keys[rows], self.values[rows]


class MultiHeadAttention(nn.Module):
    """Attention in several subspaces at once (Vaswani et al. 2017, section 3.2.2).

    Args:
        width: embedding dimension of inputs and outputs.
        heads: number of heads; each has `head_dim` numbers (by default width / heads).
        bias: bias of the query, key and value projections; of the output projection too, unless
            `out_bias` says otherwise.
        scale: factor of the scores; by default 1/√head_dim.
        dropout: dropout probability of the attention weights.
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
            raise ValueError(f"a width of {width} cannot be divided among {heads} heads")
        self.heads, self.head_dim = heads, head_dim or width // heads
        self.scale, self.dropout = scale, dropout
        self.inner_dim = heads * self.head_dim
        self.qkv = nn.Linear(width, 3 * self.inner_dim, bias=bias)  # one product: three would be small
        self.out = nn.Linear(self.inner_dim, width, bias=bias if out_bias is None else out_bias)

    def forward(
        self,
        x: Float[Tensor, "batch queries width"],
        memory: Float[Tensor, "batch keys width"] | None = None,
        *,
        mask: Mask | None = None,
        bias: Bias | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Self-attention of `x`, or cross-attention to `memory`.

        With a cache, self-attention appends the new keys and values to it; cross-attention computes
        those of `memory` in the first call only.
        """
        q, k, v = self.project(x, memory, cache)  # (B, H, T, head_dim)
        dropout = self.dropout if self.training else 0.0
        y = attention(q, k, v, mask=mask, bias=bias, causal=causal, scale=self.scale, dropout=dropout)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, head_dim) -> (B, T, C)

    def project(
        self, x: Tensor, memory: Tensor | None = None, cache: KVCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads, positions, head_dim)."""
        if memory is None:
            q, k, v = self._split_heads(self.qkv(x), 3)
            return (q, k, v) if cache is None else (q, *cache.append(k, v))
        (q,) = self._split_heads(self._project_rows(x, 0, self.inner_dim), 1)
        if cache is not None and cache.length:
            return q, cache.keys, cache.values
        k, v = self._split_heads(self._project_rows(memory, self.inner_dim, 3 * self.inner_dim), 2)
        return (q, k, v) if cache is None else (q, *cache.append(k, v))

    def _project_rows(self, x: Tensor, first: int, last: int) -> Tensor:
        """The part of the joint projection that rows `first` to `last` of its weight compute."""
        bias = self.qkv.bias
        return F.linear(x, self.qkv.weight[first:last], None if bias is None else bias[first:last])

    def _split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        shape = (self.heads, self.head_dim)
        return tuple(part.unflatten(2, shape).transpose(1, 2) for part in x.chunk(parts, 2))
