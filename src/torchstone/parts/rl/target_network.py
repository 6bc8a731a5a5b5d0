"""Target networks: copies that follow a network by Polyak averaging, or are synchronized now and then."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def make_target(model: Module) -> Module:
    """A copy of `model` that receives no gradients."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def polyak_update(target: nn.Module, model: nn.Module, tau: float) -> None:
    """θ' ← τθ + (1-τ)θ' (Polyak and Juditsky 1992; Lillicrap et al. 2016, algorithm 1); at τ = 1 a copy.
    Buffers, such as running statistics, are copied."""
    target_parameters: list[Tensor] = list(target.parameters())
    parameters: list[Tensor] = list(model.parameters())
    if tau == 1:
        torch._foreach_copy_(target_parameters, parameters)
    else:
        torch._foreach_lerp_(target_parameters, parameters, tau)
    for buffer, new in zip(target.buffers(), model.buffers(), strict=True):
        buffer.copy_(new)
