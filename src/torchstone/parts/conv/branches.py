"""Parallel branches on one input, concatenated along the channels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Branches(nn.Module):
    """Every branch gets the same maps; their outputs are concatenated along the channels, in order.

    As in the Inception module of Szegedy et al. 2014 (arXiv:1409.4842). Where all branches are
    convolutions of one shape, this is the single convolution with their filters stacked.

    Args:
        branches: modules by name; their outputs must agree in all but channels.
    """

    def __init__(self, **branches: nn.Module):
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return torch.cat([branch(x) for branch in self.children()], 1)
