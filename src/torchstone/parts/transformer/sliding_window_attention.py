"""Sliding-window attention, with dilation and global tokens, in time and memory linear in the length."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.parts.transformer.block_attention import ExtraKeys, block_attention
from torchstone.parts.transformer.global_tokens import GlobalTokens, find_global_tokens


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
    global_rows: Float[Tensor, "batch heads tokens values"] | None = None,
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
        global_rows: what the global tokens find, in the order of `global_tokens.positions`, where they have
            projections of their own. By default they attend to all tokens with q, k and v.
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
        key_mask = global_tokens.hide(key_mask)
        extra = ExtraKeys(
            global_tokens.gather_heads(k), global_tokens.gather_heads(v), global_tokens.is_token
        )
    out = _window_attention(q, k, v, window, dilation, causal, key_mask, extra, scale, dropout)
    if mask is not None:
        out = out.masked_fill(~mask[:, None, :, None], 0)
    if global_tokens is None:
        return out
    if global_rows is None:
        queries = global_tokens.gather_heads(q)
        global_rows = global_tokens.attend_to_all(queries, k, v, mask=mask, scale=scale, dropout=dropout)
    return global_tokens.replace(out, global_rows)


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
