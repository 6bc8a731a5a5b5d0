"""A network that follows another one slowly, or is made its like now and then."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def follower(model: Module) -> Module:
    """A copy of `model` that receives no gradients."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, model: nn.Module, rate: float) -> None:
    """θ' ← τθ + (1-τ)θ', at rate τ (Polyak and Juditsky 1992; Lillicrap et al. 2016, algorithm 1); at 1
    a copy. Buffers, such as running statistics, are copied."""
    theirs: list[Tensor] = list(target.parameters())
    ours: list[Tensor] = list(model.parameters())
    if rate == 1:
        torch._foreach_copy_(theirs, ours)
    else:
        torch._foreach_lerp_(theirs, ours, rate)
    for buffer, new in zip(target.buffers(), model.buffers(), strict=True):
        buffer.copy_(new)
