"""Attention of each block of queries to a few listed blocks of keys: the core of window and block-sparse.

Sliding-window attention lists a block's neighbors, block-sparse attention the global and random blocks too.
Time and memory are linear in the length as long as the lists are: no array of length × length is made.
"""

from collections.abc import Iterator, Sequence
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


class FullBlocks(NamedTuple):
    """Blocks whose queries attend to all keys, in place of the listed ones."""

    blocks: Int64[Tensor, "batch full"]  # of each text; one may be there twice
    mask: Bool[Tensor, "batch length"] | None  # True for keys that these may attend to


def block_attention(
    q: Float[Tensor, "batch heads length head_dim"],
    k: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length values"],
    table: Int64[Tensor, "#batch #heads blocks listed"],
    *,
    band: Bool[Tensor, "block keys"] | None = None,
    key_mask: Bool[Tensor, "batch length"] | None = None,
    extra: ExtraKeys | None = None,
    full: FullBlocks | None = None,
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
        key_mask: True for keys that may be attended to, `full` blocks apart.
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
    head = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1)
    rows = table.clamp(min=0) + head * blocks
    if q.device.type != "cpu" or torch.compiler.is_compiling():
        if band_bias is not None and extra is not None:
            band_bias = F.pad(band_bias, (0, extra.k.shape[2]))
        out = _gathered(q, k, v, rows, bias[bias_rows], band_bias, extra, scale, dropout)
        return out if full is None else _replace_full(out, q, k, v, full, blocks, scale, dropout)
    bias_rows = bias_rows.expand(batch, heads, -1, -1).flatten(0, 2)
    # all chance is in one number from torch's generator, so that the backward pass can drop the same again
    seed = int(torch.randint(2**62, ())) if dropout else None
    hides = (bias != 0).any(1)[bias_rows].any(1).tolist()
    bands = [] if band_bias is None else list(_hiding_columns(band_bias, size))
    lists = _Lists(rows.flatten(0, 2), bias_rows, bias, hides, bands, size, blocks, heads)
    extra_k = extra_v = None
    if extra is not None:
        extra_k, extra_v = extra.k.flatten(0, 1), extra.v.flatten(0, 1)
        if not bool(extra.mask.all()):
            extra_bias = torch.zeros(extra.mask.shape, dtype=dtype).masked_fill_(~extra.mask, HIDDEN)
            lists = lists._replace(extra_bias=extra_bias)
    if full is not None:
        first = torch.arange(batch * heads)[:, None] * blocks
        lists = lists._replace(full=(first + full.blocks.repeat_interleave(heads, 0)).tolist())
        if full.mask is not None and not bool(full.mask.all()):
            full_bias = torch.zeros(batch, length, dtype=dtype).masked_fill_(~full.mask, HIDDEN)
            lists = lists._replace(full_bias=full_bias)
    flat = [x.reshape(batch * heads * blocks, size, -1).contiguous() for x in (q, k, v)]
    out = _Pieces.apply(*flat, extra_k, extra_v, lists, scale, dropout, seed)
    return out.view(batch, heads, length, -1)


def _hiding_columns(band: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """The blocks of columns in which a band hides a key."""
    for first in range(0, band.shape[1], size):
        columns = slice(first, first + size)
        if bool((part := band[:, columns]).any()):
            yield columns, part


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


def _replace_full(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, full: FullBlocks, blocks: int, scale: float, dropout: float
) -> Tensor:
    """`out` with the rows of the full blocks replaced."""
    batch, heads, _, width = q.shape
    text = torch.arange(batch, device=q.device)[:, None]
    chosen = q.view(batch, heads, blocks, -1, width)[
        text, :, full.blocks
    ]  # (batch, full, heads, size, width)
    count, size = chosen.shape[1], chosen.shape[3]
    visible = None if full.mask is None else full.mask[:, None, None]
    chosen = chosen.transpose(1, 2).flatten(2, 3)
    found = attention(chosen, k, v, mask=visible, scale=scale, dropout=dropout).unflatten(2, (count, size))
    # a block that is there twice is written twice, and must not get its gradient twice
    is_again = (full.blocks[:, :, None] == full.blocks[:, None]).triu(1).any(2)
    found = torch.where(is_again[:, None, :, None, None], found.detach(), found)
    head = torch.arange(heads, device=q.device)[:, None]
    # not in place: the fused call of a GPU needs its own output again
    out = out.view(batch, heads, blocks, size, -1)
    return out.index_put((text[:, :, None], head, full.blocks[:, None]), found).flatten(2, 3)


class _Lists(NamedTuple):
    """For each block of queries of each head (a row): which keys, and what is added to their scores."""

    rows: Tensor  # (rows, listed): the blocks of keys, as rows themselves
    bias_rows: Tensor  # (rows, listed): rows of `bias`
    bias: Tensor  # (blocks of all texts + 1, size)
    hides: list[bool]  # of each row: whether a key of its blocks is hidden
    band: list[tuple[slice, Tensor]]  # of the listed keys: those columns where it hides some, (size, columns)
    size: int  # of a block
    blocks: int  # of a text
    heads: int
    extra_bias: Tensor | None = None  # (batch, extra), where one is hidden
    full: Sequence[Sequence[int]] = ()  # of each head of each text: the rows that attend to all keys
    full_bias: Tensor | None = None  # (batch, length), where one is hidden


class _Pieces(torch.autograd.Function):
    """Attention in pieces of rows that stay in the cache; the backward pass computes no product twice, unless
    there are more than `MAX_SAVED` weights: then it computes each piece's again.

    With S = scale QKᵀ + bias, P = softmax S and O = P V: dV = PᵀdO, dP = dO Vᵀ,
    dS = P ⊙ (dP − rowsum(P ⊙ dP)), dQ = scale dS K, dK = scale dSᵀQ. The extra keys have products of their
    own: all rows of a head share them.
    """

    @staticmethod
    def forward(ctx, q, k, v, extra_k, extra_v, lists, scale, dropout, seed):
        dtype, listed = lists.bias.dtype, lists.rows.shape[1] * lists.size
        keys = listed + (0 if extra_k is None else extra_k.shape[1])
        pieces = _pieces(len(q), lists.size * keys, lists.blocks, shared=extra_k is not None)
        out = torch.empty_like(v)
        generator = _generator(seed)
        is_saved = any(ctx.needs_input_grad) and len(q) * lists.size * keys <= MAX_SAVED
        memory = _Memory(k, v, lists, pieces)
        # one for each piece: the allocator keeps small ones, and asks the system for a large one anew
        saved: list[Tensor] = []
        with torch.autocast(q.device.type, enabled=False):
            for piece in pieces:
                count = piece.stop - piece.start
                if is_saved or not saved:
                    saved.append(q.new_empty(count, lists.size, keys, dtype=dtype))
                queries, own_keys = q[piece].to(dtype), memory.keys(k, piece)
                scores = saved[-1][:count]
                weights = _weights(queries, own_keys, extra_k, piece, lists, scale, scores)
                if generator is not None:
                    weights = weights * _dropout_factors(weights, dropout, generator)
                own = out[piece] if out.dtype == dtype else out.new_empty(out[piece].shape, dtype=dtype)
                torch.bmm(weights[:, :, :listed], memory.values(v, piece), out=own)
                if extra_v is not None:
                    more = weights.flatten(0, 1)[:, listed:]
                    own.flatten(0, 1).addmm_(more, extra_v[piece.start // lists.blocks].to(dtype))
                if own.dtype != out.dtype:
                    out[piece] = own
            for row, head in _full_rows(lists):
                own_keys, values = (_of_head(x, head, lists).to(dtype) for x in (k, v))
                weights = _full_weights(q[row].to(dtype), own_keys, head, lists, scale)
                if is_saved:
                    saved.append(weights)
                if generator is not None:
                    weights = weights * _dropout_factors(weights, dropout, generator)
                out[row] = weights @ values
        ctx.save_for_backward(q, k, v, extra_k, extra_v, *(saved if is_saved else ()))
        ctx.lists, ctx.settings = lists, (pieces, keys, scale, dropout, seed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, extra_k, extra_v, *saved = ctx.saved_tensors
        lists, (pieces, keys, scale, dropout, seed) = ctx.lists, ctx.settings
        dtype, listed = lists.bias.dtype, lists.rows.shape[1] * lists.size
        full, dfull = list(_full_rows(lists)), dout
        if full:  # what they found among listed keys was replaced
            dout = dout.index_fill(0, torch.tensor([row for row, _ in full]), 0)
        dq = torch.empty_like(q, dtype=dtype)
        # sums of several blocks, and of all rows for the extra keys
        dk, dv = torch.zeros_like(k, dtype=dtype), torch.zeros_like(v, dtype=dtype)
        dextra_k, dextra_v = (
            None if x is None else torch.zeros_like(x, dtype=dtype) for x in (extra_k, extra_v)
        )
        generator = _generator(seed)
        memory, parts = _Memory(k, v, lists, pieces), _Memory(k, v, lists, pieces)
        count = memory.rows
        scores = q.new_empty(0 if saved else count, lists.size, keys, dtype=dtype)
        dscores = q.new_empty(count, lists.size, keys, dtype=dtype)
        with torch.autocast(q.device.type, enabled=False):
            for number, piece in enumerate(pieces):
                rows, head = slice(piece.stop - piece.start), piece.start // lists.blocks
                queries, dpiece = q[piece].to(dtype), dout[piece].to(dtype)
                own_keys, values = memory.keys(k, piece), memory.values(v, piece)
                if saved:
                    weights = saved[number]
                else:
                    weights = _weights(queries, own_keys, extra_k, piece, lists, scale, scores[rows])
                dweights = dscores[rows]
                dweights[:, :, :listed].baddbmm_(dpiece, values.transpose(1, 2), beta=0)
                if extra_v is not None:
                    more = dweights.flatten(0, 1)[:, listed:]
                    more.addmm_(dpiece.flatten(0, 1), extra_v[head].to(dtype).T, beta=0)
                dropped = weights
                if generator is not None:
                    factors = _dropout_factors(weights, dropout, generator)
                    dropped = weights * factors
                    dweights *= factors
                if dextra_v is not None:
                    dextra_v[head].addmm_(dropped.flatten(0, 1)[:, listed:].T, dpiece.flatten(0, 1))
                dvalues = torch.bmm(dropped[:, :, :listed].transpose(1, 2), dpiece, out=parts.v[rows])
                torch._softmax_backward_data(dweights, weights, -1, dtype, grad_input=dweights)
                own = dweights[:, :, :listed]
                dq[piece].baddbmm_(own, own_keys, beta=0, alpha=scale)
                if dextra_k is not None:
                    more = dweights.flatten(0, 1)[:, listed:]
                    dq[piece].flatten(0, 1).addmm_(more, extra_k[head].to(dtype), alpha=scale)
                    dextra_k[head].addmm_(more.T, queries.flatten(0, 1), alpha=scale)
                dkeys = parts.k[rows].baddbmm_(own.transpose(1, 2), queries, beta=0, alpha=scale)
                for total, part in ((dk, dkeys), (dv, dvalues)):
                    blocks = part.view(-1, lists.size * part.shape[2])
                    total.view(len(total), -1).index_add_(0, lists.rows[piece].flatten(), blocks)
            for number, (row, head) in enumerate(full, len(pieces)):
                own_keys, values = (_of_head(x, head, lists).to(dtype) for x in (k, v))
                queries, dpiece = q[row].to(dtype), dfull[row].to(dtype)
                weights = saved[number] if saved else _full_weights(queries, own_keys, head, lists, scale)
                dweights, dropped = dpiece @ values.T, weights
                if generator is not None:
                    factors = _dropout_factors(weights, dropout, generator)
                    dropped = weights * factors
                    dweights *= factors
                _of_head(dv, head, lists).addmm_(dropped.T, dpiece)
                torch._softmax_backward_data(dweights, weights, -1, dtype, grad_input=dweights)
                dq[row].addmm_(dweights, own_keys, beta=0, alpha=scale)
                _of_head(dk, head, lists).addmm_(dweights.T, queries, alpha=scale)
        gradients = [
            None if x is None else x.to(like.dtype)
            for x, like in ((dq, q), (dk, k), (dv, v), (dextra_k, k), (dextra_v, v))
        ]
        return *gradients, None, None, None, None


def _pieces(rows: int, scores: int, blocks: int, *, shared: bool) -> list[slice]:
    """Slices of the rows, of about `SCORES` scores; each of one head, where its rows have keys `shared`."""
    count = max(1, SCORES // scores)
    span = blocks if shared else rows
    count = -(-span // -(-span // count))  # nearly equal ones
    return [
        slice(first, min(first + count, begin + span))
        for begin in range(0, rows, span)
        for first in range(begin, begin + span, count)
    ]


class _Memory:
    """Keys and values of a piece, in memory that all pieces use in turn: new memory for each would cost a
    tenth of the time."""

    def __init__(self, k: Tensor, v: Tensor, lists: _Lists, pieces: list[slice]):
        self.lists, self.dtype = lists, lists.bias.dtype
        self.rows = max(piece.stop - piece.start for piece in pieces)
        keys = lists.rows.shape[1] * lists.size
        self.k, self.v = (x.new_empty(self.rows, keys, x.shape[2], dtype=self.dtype) for x in (k, v))

    def keys(self, k: Tensor, piece: slice) -> Tensor:
        """The listed blocks of keys: (rows, listed keys, width)."""
        return self._gather(k, piece, self.k)

    def values(self, v: Tensor, piece: slice) -> Tensor:
        return self._gather(v, piece, self.v)

    def _gather(self, x: Tensor, piece: slice, memory: Tensor) -> Tensor:
        rows = self.lists.rows[piece]
        memory, listed = memory[: len(rows)], x.view(len(x), -1)
        if x.dtype == self.dtype:
            torch.index_select(listed, 0, rows.flatten(), out=memory.view(rows.numel(), -1))
            return memory
        return memory.copy_(listed.index_select(0, rows.flatten()).view(memory.shape))


def _weights(
    queries: Tensor,
    keys: Tensor,
    extra_k: Tensor | None,
    piece: slice,
    lists: _Lists,
    scale: float,
    out: Tensor,
) -> Tensor:
    """softmax(scale QKᵀ + bias) of a piece, in `out`: (rows, size, keys)."""
    listed, head = keys.shape[1], piece.start // lists.blocks
    scores = out[:, :, :listed]
    scores.baddbmm_(queries, keys.transpose(1, 2), beta=0, alpha=scale)
    if any(lists.hides[piece]):
        rows = lists.bias_rows[piece]
        scores += lists.bias.index_select(0, rows.flatten()).view(len(rows), 1, -1)
    for columns, band in lists.band:
        scores[:, :, columns] += band
    if extra_k is not None:
        more = out.flatten(0, 1)[:, listed:]
        more.addmm_(queries.flatten(0, 1), extra_k[head].to(out.dtype).T, beta=0, alpha=scale)
        if lists.extra_bias is not None:
            more += lists.extra_bias[head // lists.heads]
    return torch.softmax(out, -1, out=out)


def _full_rows(lists: _Lists) -> Iterator[tuple[int, int]]:
    """Each row that attends to all keys of its head, and that head."""
    for head, rows in enumerate(lists.full):
        for row in dict.fromkeys(rows):
            yield row, head


def _of_head(x: Tensor, head: int, lists: _Lists) -> Float[Tensor, "length width"]:
    return x[head * lists.blocks : (head + 1) * lists.blocks].flatten(0, 1)


def _full_weights(queries: Tensor, keys: Tensor, head: int, lists: _Lists, scale: float) -> Tensor:
    """softmax(scale QKᵀ + bias) over all keys: (size, length)."""
    scores = queries.new_empty(len(queries), len(keys))
    scores.addmm_(queries, keys.T, beta=0, alpha=scale)
    if lists.full_bias is not None:
        scores += lists.full_bias[head // lists.heads]
    return torch.softmax(scores, -1, out=scores)


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _dropout_factors(weights: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Dropout's factors of a piece: 0, or 1 / (1 − p)."""
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)
