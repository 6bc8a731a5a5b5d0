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
# weights that a call may save for its backward pass: 128 MiB in float32
MAX_SAVED = 2**25
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
    in its cache, where the blocks of all rows, side by side, would be several times as large as K and V. The
    backward pass reads the attention weights, or computes them again where there are more than `MAX_SAVED`.
    Elsewhere, and where torch compiles, the blocks are gathered for one fused call.

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
    flat = [x.reshape(batch * heads * blocks, size, -1).contiguous() for x in (q, k, v)]
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
    """Attention in pieces of rows that stay in the cache; the backward pass computes no product twice, unless
    there are more than `MAX_SAVED` weights: then it computes each piece's again.

    With S = scale QKᵀ + bias, P = softmax S and O = P V: dV = PᵀdO, dP = dO Vᵀ,
    dS = P ⊙ (dP − rowsum(P ⊙ dP)), dQ = scale dS K, dK = scale dSᵀQ.
    """

    @staticmethod
    def forward(ctx, q, k, v, extra_k, extra_v, lists, scale, dropout, seed):
        dtype, keys = lists.bias.dtype, lists.rows.shape[1] * lists.size
        keys += 0 if extra_k is None else extra_k.shape[1]
        pieces = _pieces(len(q), lists.size * keys)
        out = torch.empty_like(v)
        generator = _generator(seed)
        is_saved = any(ctx.needs_input_grad) and len(q) * lists.size * keys <= MAX_SAVED
        scores = q.new_empty(len(q) if is_saved else pieces[0].stop, lists.size, keys, dtype=dtype)
        found = _Gathered(k, v, lists, pieces[0].stop, keys)
        with torch.autocast(q.device.type, enabled=False):
            for piece in pieces:
                weights = scores[piece] if is_saved else scores[: piece.stop - piece.start]
                own_keys, values = found.keys(k, extra_k, piece), found.values(v, extra_v, piece)
                _weights(q[piece].to(dtype), own_keys, piece, lists, scale, weights)
                if generator is not None:
                    weights = weights * _dropout_factors(weights, dropout, generator)
                if out.dtype == dtype:
                    torch.bmm(weights, values, out=out[piece])
                else:
                    out[piece] = torch.bmm(weights, values)
        ctx.save_for_backward(q, k, v, extra_k, extra_v, scores if is_saved else None)
        ctx.lists, ctx.settings = lists, (pieces, keys, scale, dropout, seed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, extra_k, extra_v, saved = ctx.saved_tensors
        lists, (pieces, keys, scale, dropout, seed) = ctx.lists, ctx.settings
        dtype, listed = lists.bias.dtype, lists.rows.shape[1] * lists.size
        dq = torch.empty_like(q, dtype=dtype)
        # sums of several blocks, and of all rows for the extra keys
        dk, dv = torch.zeros_like(k, dtype=dtype), torch.zeros_like(v, dtype=dtype)
        dextra_k, dextra_v = (
            None if x is None else torch.zeros_like(x, dtype=dtype) for x in (extra_k, extra_v)
        )
        generator = _generator(seed)
        count = pieces[0].stop
        scores = q.new_empty(1 if saved is None else 0, count, lists.size, keys, dtype=dtype)
        dscores = q.new_empty(count, lists.size, keys, dtype=dtype)
        dfound = _Gathered(k, v, lists, count, keys)
        found = _Gathered(k, v, lists, count, keys)
        with torch.autocast(q.device.type, enabled=False):
            for piece in pieces:
                rows = slice(piece.stop - piece.start)
                queries, dpiece = q[piece].to(dtype), dout[piece].to(dtype)
                own_keys, values = found.keys(k, extra_k, piece), found.values(v, extra_v, piece)
                if saved is None:
                    weights = _weights(queries, own_keys, piece, lists, scale, scores[0, rows])
                else:
                    weights = saved[piece]
                dweights = torch.bmm(dpiece, values.transpose(1, 2), out=dscores[rows])
                dropped = weights
                if generator is not None:
                    factors = _dropout_factors(weights, dropout, generator)
                    dropped = weights * factors
                    dweights *= factors
                dvalues = torch.bmm(dropped.transpose(1, 2), dpiece, out=dfound.v[rows])
                torch._softmax_backward_data(dweights, weights, -1, dtype, grad_input=dweights)
                torch.bmm(dweights.mul_(scale), own_keys, out=dq[piece])
                dkeys = torch.bmm(dweights.transpose(1, 2), queries, out=dfound.k[rows])
                for total, dextra, part in ((dk, dextra_k, dkeys), (dv, dextra_v, dvalues)):
                    blocks = part[:, :listed].reshape(-1, lists.size * part.shape[2])
                    total.view(len(total), -1).index_add_(0, lists.rows[piece].flatten(), blocks)
                    if dextra is not None:
                        dextra.index_add_(0, lists.owner[piece], part[:, listed:])
        gradients = [
            None if x is None else x.to(like.dtype)
            for x, like in ((dq, q), (dk, k), (dv, v), (dextra_k, k), (dextra_v, v))
        ]
        return *gradients, None, None, None, None


def _pieces(rows: int, scores: int) -> list[slice]:
    """Slices of the rows, each of about `SCORES` scores."""
    count = max(1, SCORES // scores)
    return [slice(first, min(first + count, rows)) for first in range(0, rows, count)]


class _Gathered:
    """The keys and values of a piece, in memory that all pieces use in turn: new memory for each would cost a
    tenth of the time."""

    def __init__(self, k: Tensor, v: Tensor, lists: _Lists, rows: int, keys: int):
        self.lists, self.dtype = lists, lists.bias.dtype
        self.k, self.v = (x.new_empty(rows, keys, x.shape[2], dtype=self.dtype) for x in (k, v))

    def keys(self, k: Tensor, extra: Tensor | None, piece: slice) -> Tensor:
        """The listed blocks of keys, and then the extra ones: (rows, keys, width)."""
        return self._gather(k, extra, piece, self.k)

    def values(self, v: Tensor, extra: Tensor | None, piece: slice) -> Tensor:
        return self._gather(v, extra, piece, self.v)

    def _gather(self, x: Tensor, extra: Tensor | None, piece: slice, memory: Tensor) -> Tensor:
        rows = self.lists.rows[piece]
        memory = memory[: len(rows)]
        if extra is None and x.dtype == self.dtype:
            out = memory.view(rows.numel(), -1)
            torch.index_select(x.view(len(x), -1), 0, rows.flatten(), out=out)
            return memory
        found = x.index_select(0, rows.flatten()).view(len(rows), -1, x.shape[2])
        if extra is not None and self.lists.owner is not None:
            found = torch.cat([found, extra.index_select(0, self.lists.owner[piece])], 1)
        return found.to(self.dtype)


def _weights(queries: Tensor, keys: Tensor, piece: slice, lists: _Lists, scale: float, out: Tensor) -> Tensor:
    """softmax(scale QKᵀ + bias) of a piece, in `out`: (rows, size, keys)."""
    rows = lists.bias_rows[piece]
    bias = lists.bias.index_select(0, rows.flatten()).view(len(rows), 1, -1)
    if lists.extra_bias is not None and lists.owner is not None:
        bias = torch.cat([bias, lists.extra_bias[lists.owner[piece] // lists.heads][:, None]], 2)
    bias = bias if lists.band is None else bias + lists.band
    torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale, out=out)
    return torch.softmax(out, -1, out=out)


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _dropout_factors(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Dropout's factors of a piece: 0, or 1 / (1 − p)."""
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)
