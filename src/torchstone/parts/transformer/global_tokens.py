"""Global tokens: the few that attend to all tokens of their text, and to which all attend."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.parts.transformer.attention import attention


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

    def gather_heads(
        self, x: Float[Tensor, "batch heads length width"]
    ) -> Float[Tensor, "batch heads tokens width"]:
        """The same of each head."""
        return x.gather(2, self.positions[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

    def hide(self, key_mask: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """`key_mask` without them: they are attended to once, as extra keys."""
        return key_mask.index_put((self.text, self.position), key_mask.new_zeros(()))

    def attend_to_all(
        self,
        q: Float[Tensor, "batch heads tokens head_dim"],
        k: Float[Tensor, "batch heads length head_dim"],
        v: Float[Tensor, "batch heads length values"],
        *,
        mask: Bool[Tensor, "batch length"] | None,
        scale: float | None,
        dropout: float,
    ) -> Float[Tensor, "batch heads tokens values"]:
        """What their queries find among all tokens."""
        visible = None if mask is None else mask[:, None, None]
        return attention(q, k, v, mask=visible, scale=scale, dropout=dropout)

    def replace(
        self,
        out: Float[Tensor, "batch heads length values"],
        found: Float[Tensor, "batch heads tokens values"],
    ) -> Float[Tensor, "batch heads length values"]:
        """`out` with their rows replaced by `found`."""
        rows = found[self.text, :, self.slot]  # (found, heads, values)
        heads = torch.arange(out.shape[1], device=out.device)
        return out.index_put((self.text[:, None], heads, self.position[:, None]), rows)


def attend_to_projected(
    q: Float[Tensor, "batch heads queries head_dim"],
    x: Float[Tensor, "batch length width"],
    key: tuple[Float[Tensor, "inner width"], Float[Tensor, " inner"]],
    value: tuple[Float[Tensor, "inner width"], Float[Tensor, " inner"]],
    *,
    mask: Bool[Tensor, "batch length"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Attention to keys and values that are projections of x, without projecting it.

    q (W_k x + b_k) = (q W_k) x + q b_k, and P (W_v x + b_v) = W_v (P x) + b_v ΣP. Forward, the projections
    cost 4 · inner · width operations per token, this 4 · heads · queries · width: it pays for fewer queries
    than a head is wide.

    Args:
        key: weight and bias of the keys' projection, whose rows are those of one head after the other.
        value: the same of the values.
        mask: True where there is a key. A query without any key gives zeros.
        scale: factor of the scores; by default 1/√head_dim.
        dropout: dropout probability of the attention weights; 0 outside training.
    """
    heads, queries, head_dim = q.shape[1:]
    scale = head_dim**-0.5 if scale is None else scale
    key_weight, value_weight = (weight.unflatten(0, (heads, head_dim)) for weight, _ in (key, value))
    key_bias, value_bias = (bias.view(heads, 1, head_dim) for _, bias in (key, value))
    turned = (q @ key_weight).flatten(1, 2)  # (B, H · queries, width)
    scores = (turned @ x.transpose(1, 2)).unflatten(1, (heads, queries))
    scores = scale * (scores + (q * key_bias).sum(3, keepdim=True))
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    weights = scores.softmax(3)
    if mask is not None:
        weights = weights.masked_fill(~mask.any(1)[:, None, None, None], 0.0)
    weights = F.dropout(weights, dropout)
    mixed = (weights.flatten(1, 2) @ x).unflatten(1, (heads, queries))
    return mixed @ value_weight.transpose(1, 2) + weights.sum(3, keepdim=True) * value_bias


def find_global_tokens(global_mask: Bool[Tensor, "batch length"]) -> GlobalTokens:
    """The global tokens of each text. How many there are decides a shape: a GPU is waited for."""
    text, position = global_mask.nonzero(as_tuple=True)
    slot = (global_mask.cumsum(1) - 1)[text, position]
    count = int(slot.max()) + 1 if len(slot) else 0
    positions = torch.zeros(len(global_mask), count, dtype=torch.int64, device=global_mask.device)
    is_token = torch.zeros_like(positions, dtype=torch.bool)
    positions[text, slot], is_token[text, slot] = position, True
    return GlobalTokens(positions, is_token, text, slot, position)


def check_global_tokens(
    tokens: Tensor, mask: Tensor | None, global_mask: Tensor | None
) -> GlobalTokens | None:
    """The global tokens, each of which must be one of its text.

    Raises:
        BadInput: a mask for texts of another length; a global token that is padding.
    """
    if global_mask is None:
        return None
    if global_mask.shape != tokens.shape:
        raise BadInput(
            f"the global mask is of shape {(*global_mask.shape,)}, but the tokens are of shape "
            f"{(*tokens.shape,)}"
        )
    found = find_global_tokens(global_mask)
    if mask is not None and not bool((is_inside := mask[found.text, found.position]).all()):
        which = int((~is_inside).nonzero()[0, 0])
        text = int(found.text[which])
        raise BadInput(
            f"position {int(found.position[which])} of text {text} is to be global, but the text has "
            f"{int(mask[text].sum())} tokens: positions are counted from 0"
        )
    return found
