"""Sliding-window attention, with dilation and global tokens, in time and memory linear in the length."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.parts.transformer.attention import attention
from torchstone.parts.transformer.block_attention import ExtraKeys, block_attention


class GlobalTokens(NamedTuple):
    """The tokens that attend to all tokens, and to which all attend, listed for each text."""

    positions: Int64[Tensor, "batch tokens"]
    is_token: Bool[Tensor, "batch tokens"]  # False for the fillers of texts that have fewer than others
    text: Int64[Tensor, " found"]  # of each token that was found: its text, its slot in the lists above
    slot: Int64[Tensor, " found"]
    position: Int64[Tensor, " found"]

    def gather(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch tokens width"]:
        """Their rows of x; of a filler, the row of position 0."""
        return x.gather(1, self.positions[:, :, None].expand(-1, -1, x.shape[2]))


def find_global_tokens(global_mask: Bool[Tensor, "batch length"]) -> GlobalTokens:
    """The global tokens of each text. How many there are decides a shape: a GPU is waited for."""
    text, position = global_mask.nonzero(as_tuple=True)
    slot = (global_mask.cumsum(1) - 1)[text, position]
    count = int(slot.max()) + 1 if len(slot) else 0
    positions = torch.zeros(len(global_mask), count, dtype=torch.int64, device=global_mask.device)
    is_token = torch.zeros_like(positions, dtype=torch.bool)
    positions[text, slot], is_token[text, slot] = position, True
    return GlobalTokens(positions, is_token, text, slot, position)


def sliding_window_attention(
    q: Float[Tensor, "batch heads length head_dim"],
    k: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length values"],
    *,
    window: int,
    dilation: int = 1,
    causal: bool = False,
    mask: Bool[Tensor, "batch length"] | None = None,
    global_mask: Bool[Tensor, "batch length"] | None = None,
    global_tokens: GlobalTokens | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads length values"]:
    """Each token attends to `window` tokens on each side, to itself and to the global tokens.

    Beltagy et al. 2020 (arXiv:2004.05150), section 3. A global token attends to all tokens.

    Args:
        window: number of keys on each side. Published configurations give both sides together.
        dilation: distance of neighboring keys in the window. For heads of different dilation, call it for
            each group of heads.
        causal: no key after the query. Not with global tokens.
        mask: True for tokens, False for padding, which no token attends to and which gets zeros.
        global_mask: True for global tokens.
        global_tokens: `find_global_tokens(global_mask & mask)` in place of `global_mask`, where several
            layers share it.
        global_qkv: what global tokens attend with, where they have projections of their own: their queries
            (batch, heads, global tokens, head_dim), in the order of `global_tokens.positions`, and the keys
            and values of all tokens. By default those of q, k and v.
        scale: factor of the scores; by default 1/√head_dim.
        dropout: dropout probability of the attention weights; 0 outside training.
    """
    batch, _, length, _ = q.shape
    if window < 0 or dilation < 1:
        raise ValueError(f"a window of {window} and a dilation of {dilation}: at least 0 and 1 are needed")
    if global_tokens is None and global_mask is not None:
        global_tokens = find_global_tokens(global_mask if mask is None else global_mask & mask)
    if global_tokens is not None and not global_tokens.positions.shape[1]:
        global_tokens = None
    if causal and global_tokens is not None:
        raise ValueError("a global token attends to later tokens: not with causal attention")
    key_mask = q.new_ones(batch, length, dtype=torch.bool) if mask is None else mask
    extra = None
    if global_tokens is not None:  # not a second time within the window
        key_mask = key_mask.index_put((global_tokens.text, global_tokens.position), key_mask.new_zeros(()))
        extra = ExtraKeys(
            _at(k, global_tokens.positions), _at(v, global_tokens.positions), global_tokens.is_token
        )
    out = _window_attention(q, k, v, window, dilation, causal, key_mask, extra, scale, dropout)
    if mask is not None:
        out = out.masked_fill(~mask[:, None, :, None], 0)
    if global_tokens is None:
        return out
    if global_qkv is None:
        global_qkv = _at(q, global_tokens.positions), k, v
    visible = None if mask is None else mask[:, None, None]
    found = attention(*global_qkv, mask=visible, scale=scale, dropout=dropout)
    found = found[global_tokens.text, :, global_tokens.slot]  # (found, heads, values)
    heads = torch.arange(out.shape[1], device=out.device)
    return out.index_put((global_tokens.text[:, None], heads, global_tokens.position[:, None]), found)


def _window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    dilation: int,
    causal: bool,
    key_mask: Tensor,
    extra: ExtraKeys | None,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """Blocks of queries with their neighbors; every `dilation`-th token makes a text of its own."""
    batch, _, length, _ = q.shape
    classes = -(-length // dilation)  # tokens of each residue class
    window = min(window, classes - 1)
    size = 64 if window >= 128 else 32 if window >= 32 else 16
    blocks = -(-classes // size)
    padding = blocks * size * dilation - length
    if padding:
        q, k, v = (F.pad(x, (0, 0, 0, padding)) for x in (q, k, v))
        key_mask = F.pad(key_mask, (0, padding))
    if dilation > 1:
        q, k, v = (_fold(x, dilation) for x in (q, k, v))
        key_mask = key_mask.unflatten(1, (-1, dilation)).transpose(1, 2).flatten(0, 1)
        extra = None if extra is None else ExtraKeys(*(x.repeat_interleave(dilation, 0) for x in extra))
    reach = -(-window // size)  # neighboring blocks on one side
    after = 0 if causal else reach
    offsets = torch.arange(-reach, after + 1, device=q.device)
    table = torch.arange(blocks, device=q.device)[:, None] + offsets
    table = table.masked_fill((table < 0) | (table >= blocks), -1)
    query = torch.arange(size, device=q.device)[:, None]
    distance = torch.arange(-reach * size, (after + 1) * size, device=q.device) - query
    band = (distance >= -window) & (distance <= (0 if causal else window))
    out = block_attention(
        q, k, v, table[None, None], band=band, key_mask=key_mask, extra=extra, scale=scale, dropout=dropout
    )
    if dilation > 1:
        out = out.unflatten(0, (batch, dilation)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    return out[:, :, :length]


def _fold(x: Tensor, dilation: int) -> Tensor:
    """(batch, heads, length, width) to (batch · dilation, heads, length / dilation, width)."""
    return x.unflatten(2, (-1, dilation)).permute(0, 3, 1, 2, 4).flatten(0, 1)


def _at(x: Tensor, positions: Tensor) -> Tensor:
    """Rows of (batch, heads, length, width) at each text's positions: (batch, heads, positions, width)."""
    return x.gather(2, positions[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
