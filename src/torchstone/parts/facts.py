"""Published figures that need no training, and the counts they are checked with."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn


class Fact(NamedTuple):
    """A published figure and the way to measure it. Equal to the unit unless `tolerance` says otherwise."""

    name: str
    measure: Callable[[], object]
    published: object
    tolerance: float = 0.0


def parameters(module: nn.Module) -> int:
    """Trainable numbers in `module`, tied ones once; running statistics are not counted."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass on `shape`, matrix products and convolutions only."""
    from torch.utils.flop_counter import FlopCounterMode

    first = next(module.parameters())
    inputs = torch.zeros(shape, device=first.device, dtype=first.dtype)
    was_training = module.training
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(inputs)
    module.train(was_training)
    return counter.get_total_flops() // 2
