"""Piecewise-linear encoding of numbers: a bin for each range of values, filled in proportion."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PiecewiseLinear(nn.Module):
    """Gorishniy, Rubachev and Babenko 2022, "On Embeddings for Numerical Features in Tabular Deep Learning"
    (arXiv:2203.05556), section 3.1. With the edges b_0 < b_1 < … < b_T of a feature's bins:

        e_t = clamp((x − b_{t−1}) / (b_t − b_{t−1}), 0, 1)        t = 1 … T

    The first linear layer after it is then a piecewise-linear function of each feature, with its own slope in
    each bin. The paper lets the first and the last component grow beyond 0 and 1; here they do not, so that a
    value far out is not amplified.

    Args:
        edges: of each feature's bins, rising; fewer than two are no bin.
    """

    low: Tensor
    width: Tensor

    def __init__(self, edges: Sequence[Sequence[float]]):
        super().__init__()
        bins = [
            (feature, low, high) for feature, own in enumerate(edges) for low, high in itertools.pairwise(own)
        ]
        self.features = [feature for feature, _, _ in bins]
        low = torch.tensor([low for _, low, _ in bins])
        width = torch.tensor([high - low for _, low, high in bins])
        # they come with the model's configuration, so the weights need not hold them
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("width", width, persistent=False)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch bins"]:
        return ((x[:, self.features] - self.low) / self.width).clamp(0, 1)
