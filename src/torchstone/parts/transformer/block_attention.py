"""Attention of each block of queries to a few listed blocks of keys: the core of window and block-sparse.

Sliding-window attention lists a block's neighbors, block-sparse attention the global and random blocks too.
Time and memory are linear in the length as long as the lists are: no array of length × length is made.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchstone.parts.transformer.attention import attention

# of one piece of the work on a CPU: half a megabyte in float32, which stays in the cache of a core
SCORES = 131_072
# of a key that may not be attended to. Finite: a row of them alone is no NaN, and two of them may be added.
HIDDEN = -1e30


class ExtraKeys(NamedTuple):
    """Keys that every query may attend to, besides those of its blocks: the global tokens."""

    k: Float[Tensor, "batch heads extra head_dim"]
    v: Float[Tensor, "batch heads extra values"]
    mask: Bool[Tensor, "batch extra"]  # False for a filler


def block_attention(
    q: Float[Tensor, "batch heads length head_dim"],
    k: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length values"],
    table: Int64[Tensor, "#batch #heads blocks listed"],
    *,
    band: Bool[Tensor, "block keys"] | None = None,
    key_mask: Bool[Tensor, "batch length"] | None = None,
    extra: ExtraKeys | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads length values"]:
    """softmax(scale QKᵀ) V over the keys of the listed blocks.

    The length is divided into as many equal blocks as `table` has rows. A CPU works through pieces that stay
    in its cache and computes them again in the backward pass, where the blocks of all rows, side by side,
    would be several times as large as K and V. Elsewhere, and where torch compiles, they are gathered for
    one fused call.

    Args:
        table: the blocks of keys that each block of queries attends to; -1 is none. A block that is listed
            twice counts twice.
        band: True where a query of any block may attend to a key of its listed blocks.
        key_mask: True for keys that may be attended to.
        scale: factor of the scores; by default 1/√head_dim.
        dropout: dropout probability of the attention weights; 0 outside training.

    Returns:
        A query without any key gets a mean of values that means nothing: the caller replaces it.
    """
    batch, heads, length, width = q.shape
    blocks = table.shape[2]
    size = length // blocks
    if size * blocks != length:
        raise ValueError(f"a length of {length} cannot be divided into {blocks} equal blocks")
    scale = width**-0.5 if scale is None else scale
    # 16 bits do not hold what the softmax adds up; only a GPU multiplies them faster
    low = q.dtype == torch.float16 or (q.dtype == torch.bfloat16 and q.device.type == "cpu")
    dtype = torch.float32 if low else q.dtype
    # the last row of the biases is that of no block
    hidden = torch.zeros(batch, length, dtype=torch.bool, device=q.device) if key_mask is None else ~key_mask
    bias = torch.zeros(batch * blocks + 1, size, dtype=dtype, device=q.device)
    bias[:-1].masked_fill_(hidden.reshape(-1, size), HIDDEN)
    bias[-1] = HIDDEN
    text = torch.arange(batch, device=q.device)[:, None, None, None]
    bias_rows = torch.where(table < 0, batch * blocks, table + text * blocks)
    band_bias = None
    if band is not None:
        band_bias = torch.zeros(band.shape, dtype=dtype, device=q.device).masked_fill_(~band, HIDDEN)
        band_bias = F.pad(band_bias, (0, 0 if extra is None else extra.k.shape[2]))
    head = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1)
    rows = table.clamp(min=0) + head * blocks
    if q.device.type != "cpu" or torch.compiler.is_compiling():
        return _gathered(q, k, v, rows, bias[bias_rows], band_bias, extra, scale, dropout)
    bias_rows = bias_rows.expand(batch, heads, -1, -1)
    # all chance is in one number from torch's generator, so that the backward pass can drop the same again
    seed = int(torch.randint(2**62, ())) if dropout else None
    lists = _Lists(rows.flatten(0, 2), bias_rows.flatten(0, 2), bias, band_bias, size)
    extra_k = extra_v = None
    if extra is not None:
        extra_k, extra_v = extra.k.flatten(0, 1), extra.v.flatten(0, 1)
        extra_bias = torch.zeros(extra.mask.shape, dtype=dtype).masked_fill_(~extra.mask, HIDDEN)
        owner = torch.arange(batch * heads).repeat_interleave(blocks)  # of each row: its text and head
        lists = lists._replace(extra_bias=extra_bias, owner=owner, heads=heads)
    flat = [x.reshape(batch * heads * blocks, size, -1) for x in (q, k, v)]
    out = _Pieces.apply(*flat, extra_k, extra_v, lists, scale, dropout, seed)
    return out.view(batch, heads, length, -1)


def _gathered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    key_bias: Tensor,
    band_bias: Tensor | None,
    extra: ExtraKeys | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """The blocks folded into the batch of one call of `attention`."""
    batch, heads, length, width = q.shape
    blocks, listed, size = *rows.shape[2:], length // rows.shape[2]

    def gather(x: Tensor) -> Tensor:
        lists = rows.transpose(1, 2).flatten()  # a block's heads side by side: they share its bias
        x = x.reshape(-1, size * x.shape[3]).index_select(0, lists)
        return x.view(batch * blocks, heads, listed * size, -1)

    keys, values = gather(k), gather(v)
    bias = key_bias.expand(batch, -1, -1, -1, -1).transpose(1, 2).flatten(3).flatten(0, 1)[:, :, None]
    if extra is not None:
        keys, values = (
            torch.cat([x, more.repeat_interleave(blocks, 0)], 2)
            for x, more in ((keys, extra.k), (values, extra.v))
        )
        more_bias = torch.zeros(extra.mask.shape, dtype=bias.dtype, device=bias.device)
        more_bias = more_bias.masked_fill(~extra.mask, HIDDEN).repeat_interleave(blocks, 0)
        bias = torch.cat([bias, more_bias[:, None, None].expand(-1, bias.shape[1], -1, -1)], 3)
    bias = bias if band_bias is None else bias + band_bias
    q = q.view(batch, heads, blocks, size, width).transpose(1, 2).flatten(0, 1)
    bias = bias.expand(-1, -1, size, -1).clamp(min=torch.finfo(q.dtype).min).to(q.dtype)
    out = attention(q, keys, values, bias=bias, scale=scale, dropout=dropout)
    return out.view(batch, blocks, heads, size, -1).transpose(1, 2).reshape(batch, heads, length, -1)


class _Lists(NamedTuple):
    """For each block of queries of each head (a row): which keys, and what is added to their scores."""

    rows: Tensor  # (rows, listed): the blocks of keys, as rows themselves
    bias_rows: Tensor  # (rows, listed): rows of `bias`
    bias: Tensor  # (blocks of all texts + 1, size)
    band: Tensor | None  # (size, keys)
    size: int  # of a block
    extra_bias: Tensor | None = None  # (batch, extra)
    owner: Tensor | None = None  # (rows,): the text and head that a row is of
    heads: int = 1


class _Pieces(torch.autograd.Function):
    """Attention in pieces of rows that stay in the cache; the backward pass computes each piece again.

    With S = scale QKᵀ + bias, P = softmax S and O = P V: dV = PᵀdO, dP = dO Vᵀ,
    dS = P ⊙ (dP − rowsum(P ⊙ dP)), dQ = scale dS K, dK = scale dSᵀQ.
    """

    @staticmethod
    def forward(ctx, q, k, v, extra_k, extra_v, lists, scale, dropout, seed):
        ctx.save_for_backward(q, k, v, extra_k, extra_v)
        ctx.lists, ctx.settings = lists, (scale, dropout, seed)
        out = torch.empty_like(v)
        generator = _generator(seed)
        with torch.autocast(q.device.type, enabled=False):
            for piece in _pieces(q, lists, extra_k):
                keys, values = (_keys(x, more, piece, lists) for x, more in ((k, extra_k), (v, extra_v)))
                weights = _weights(q[piece].to(lists.bias.dtype), keys, piece, lists, scale)
                if generator is not None:
                    weights *= _dropout_factors(weights, dropout, generator)
                if out.dtype == weights.dtype:
                    torch.bmm(weights, values, out=out[piece])
                else:
                    out[piece] = torch.bmm(weights, values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, extra_k, extra_v = ctx.saved_tensors
        lists, (scale, dropout, seed) = ctx.lists, ctx.settings
        dtype, listed = lists.bias.dtype, lists.rows.shape[1] * lists.size
        dq = torch.empty_like(q)
        # sums of several blocks, and of all rows for the extra keys
        dk, dv = torch.zeros_like(k, dtype=dtype), torch.zeros_like(v, dtype=dtype)
        dextra_k, dextra_v = (
            None if x is None else torch.zeros_like(x, dtype=dtype) for x in (extra_k, extra_v)
        )
        generator = _generator(seed)
        with torch.autocast(q.device.type, enabled=False):
            for piece in _pieces(q, lists, extra_k):
                queries, dpiece = q[piece].to(dtype), dout[piece].to(dtype)
                keys, values = (_keys(x, more, piece, lists) for x, more in ((k, extra_k), (v, extra_v)))
                weights = _weights(queries, keys, piece, lists, scale)
                dweights = torch.bmm(dpiece, values.transpose(1, 2))
                if generator is None:
                    dvalues = torch.bmm(weights.transpose(1, 2), dpiece)
                else:
                    factors = _dropout_factors(weights, dropout, generator)
                    dvalues = torch.bmm((weights * factors).transpose(1, 2), dpiece)
                    dweights *= factors
                dscores = torch._softmax_backward_data(dweights, weights, -1, dtype).mul_(scale)
                dq[piece] = torch.bmm(dscores, keys)
                dkeys = torch.bmm(dscores.transpose(1, 2), queries)
                for total, dextra, part in ((dk, dextra_k, dkeys), (dv, dextra_v, dvalues)):
                    blocks = part[:, :listed].reshape(-1, *total.shape[1:])
                    total.index_add_(0, lists.rows[piece].flatten(), blocks)
                    if dextra is not None:
                        dextra.index_add_(0, lists.owner[piece], part[:, listed:])
        gradients = [
            None if x is None else x.to(like.dtype)
            for x, like in ((dk, k), (dv, v), (dextra_k, k), (dextra_v, v))
        ]
        return dq, *gradients, None, None, None, None


def _pieces(q: Tensor, lists: _Lists, extra_k: Tensor | None) -> list[slice]:
    """Slices of the rows, each of about `SCORES` scores."""
    keys = lists.rows.shape[1] * lists.size + (0 if extra_k is None else extra_k.shape[1])
    count = max(1, SCORES // (lists.size * keys))
    return [slice(first, min(first + count, len(q))) for first in range(0, len(q), count)]


def _keys(x: Tensor, extra: Tensor | None, piece: slice, lists: _Lists) -> Tensor:
    """The listed blocks of keys or values, and then the extra ones: (rows, keys, width)."""
    rows = lists.rows[piece]
    found = x.index_select(0, rows.flatten()).view(len(rows), -1, x.shape[2])
    if extra is not None and lists.owner is not None:
        found = torch.cat([found, extra.index_select(0, lists.owner[piece])], 1)
    return found.to(lists.bias.dtype)


def _weights(queries: Tensor, keys: Tensor, piece: slice, lists: _Lists, scale: float) -> Tensor:
    """softmax(scale QKᵀ + bias) of a piece: (rows, size, keys)."""
    rows = lists.bias_rows[piece]
    bias = lists.bias.index_select(0, rows.flatten()).view(len(rows), 1, -1)
    if lists.extra_bias is not None and lists.owner is not None:
        bias = torch.cat([bias, lists.extra_bias[lists.owner[piece] // lists.heads][:, None]], 2)
    bias = bias if lists.band is None else bias + lists.band
    return torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale).softmax(-1)


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _dropout_factors(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Dropout's factors of a piece: 0, or 1 / (1 − p)."""
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)
