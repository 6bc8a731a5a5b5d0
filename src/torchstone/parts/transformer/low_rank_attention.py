"""Low-rank attention (Linformer): keys and values are projected to a few, whatever the length."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.parts.transformer.attention import attention


def low_rank_attention(
    q: Float[Tensor, "batch heads length head_dim"],
    k: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length values"],
    e: Float[Tensor, "*own projected max_length"],
    f: Float[Tensor, "*own projected max_length"] | None = None,
    *,
    mask: Bool[Tensor, "batch length"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads length values"]:
    """softmax(scale Q(EK)ᵀ) FV, in time and memory linear in the length.

    Wang et al. 2020 (arXiv:2006.04768), equation 7. Padding is taken out before the projection, so that it
    leaks into no token, and a text's result does not depend on the length of its padding. It cannot be
    causal: each projected key is a sum over all positions.

    Args:
        e: projects the keys. Of shape (projected, max_length) it is shared by the heads, of shape
            (heads, projected, max_length) each head has its own. Layers share what they are all given.
        f: projects the values; by default e.
        mask: True for tokens, False for padding, which gets zeros.
        scale: factor of the scores; by default 1/√head_dim.
        dropout: dropout probability of the attention weights; 0 outside training.
    """
    length, longest = q.shape[2], e.shape[-1]
    if length > longest:
        raise ValueError(f"{length} positions, but the projection is for {longest} at most")
    if mask is not None:
        k, v = (x.masked_fill(~mask[:, None, :, None], 0) for x in (k, v))
    keys, values = _project(e, k), _project(e if f is None else f, v)
    out = attention(q, keys, values, scale=scale, dropout=dropout)
    return out if mask is None else out.masked_fill(~mask[:, None, :, None], 0)


def _project(e: Tensor, x: Tensor) -> Float[Tensor, "batch heads projected width"]:
    """E X for each text and head, as one product, or one for each head that has its own E."""
    batch, heads, length, width = x.shape
    e = e[..., :length].to(x.dtype)
    if e.dim() == 2:
        x = e @ x.permute(2, 0, 1, 3).reshape(length, -1)
        return x.view(-1, batch, heads, width).permute(1, 2, 0, 3)
    x = torch.bmm(e, x.permute(1, 2, 0, 3).reshape(heads, length, -1))
    return x.view(heads, -1, batch, width).permute(2, 0, 1, 3)
