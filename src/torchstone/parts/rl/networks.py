"""Networks of agents that see vectors: one, or an ensemble whose layers are batched products."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between."""
    *hidden, last = itertools.pairwise(widths)
    layers = [m for a, b in hidden for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(*last))


class EnsembleLinear(nn.Module):
    """`members` independent linear layers: member k maps x to x W_k + b_k. Two cost little over one.

    Each member is initialized as `nn.Linear`, uniformly within ±1/√in_features.

    Shapes: `(members, batch, in_features)`, or `(1, batch, in_features)` for all members alike, ->
    `(members, batch, out_features)`. `weight` is (members, in_features, out_features).
    """

    def __init__(self, members: int, in_features: int, out_features: int):
        super().__init__()
        self.members, self.in_features, self.out_features = members, in_features, out_features
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(members, 1, out_features))
        bound = 1 / math.sqrt(in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, x: Float[Tensor, "#members batch in_features"]
    ) -> Float[Tensor, "members batch out_features"]:
        return torch.baddbmm(self.bias, x.expand(self.members, -1, -1), self.weight)

    def member(
        self, index: int, x: Float[Tensor, "batch in_features"]
    ) -> Float[Tensor, "batch out_features"]:
        """The output of one member."""
        return torch.addmm(self.bias[index], x, self.weight[index])

    def extra_repr(self) -> str:
        return f"members={self.members}, in_features={self.in_features}, out_features={self.out_features}"


def ensemble_mlp(members: int, widths: Sequence[int]) -> nn.Sequential:
    """`members` networks of linear layers of these widths with ReLU between."""
    *hidden, last = itertools.pairwise(widths)
    layers = [m for a, b in hidden for m in (EnsembleLinear(members, a, b), nn.ReLU())]
    return nn.Sequential(*layers, EnsembleLinear(members, *last))


def member_output(
    ensemble: nn.Sequential, index: int, x: Float[Tensor, "batch in_features"]
) -> Float[Tensor, "batch out_features"]:
    """The output of one network of `ensemble_mlp`, without the others' work."""
    for layer in ensemble:
        x = layer.member(index, x) if isinstance(layer, EnsembleLinear) else layer(x)
    return x
