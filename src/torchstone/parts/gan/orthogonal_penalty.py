"""Orthogonal regularization without its diagonal: filters should be orthogonal, but may have any norm.

Brock, Donahue and Simonyan 2018 (arXiv:1809.11096), equation 3: R = ‖W Wᵀ ⊙ (1 − I)‖²_F, the rows of W being
the filters of a layer. With the diagonal (Brock et al. 2017, arXiv:1609.07093) it would ask for norm 1 too,
which they found too much.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def orthogonal_penalty(weights: Iterable[Float[Tensor, "outputs ..."]]) -> Float[Tensor, ""]:
    """Σ over the weights of the squared inner products of each filter with each other one, in both orders."""
    penalties = []
    for weight in weights:
        rows = weight.flatten(1)
        gram = rows @ rows.mT
        penalties.append((gram - gram.diagonal().diag()).square().sum())
    return torch.stack(penalties).sum()
