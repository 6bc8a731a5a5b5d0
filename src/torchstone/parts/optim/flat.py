"""An element-wise optimizer over one vector: the whole network in a few operations, however many layers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def flat_optimizer(
    make_optimizer: Callable[..., torch.optim.Optimizer], parameters: Iterable[nn.Parameter], **options: Any
) -> torch.optim.Optimizer:
    """`make_optimizer` over one vector that the parameters become views of. Its `step` first gathers their
    gradients. Rules that work element by element (all here but Muon) give the same weights as over separate
    parameters; a step of a small network costs as much as a fused one. Its state is one vector, so that it
    is not that of the separate parameters. Gradients are the parameters' own: clear them by the module's
    `zero_grad`; where one is None it counts as 0.
    """
    parameters = list(parameters)
    sizes = [p.numel() for p in parameters]
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    for p, weights in zip(parameters, vector.data.split(sizes), strict=True):
        p.data = weights.view(p.shape)
    vector.grad = gradient = torch.zeros_like(vector)
    optimizer = make_optimizer([vector], **options)

    def gather(*_: Any) -> None:
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        torch.cat([part.flatten() for part in parts], out=gradient)

    optimizer.register_step_pre_hook(gather)
    return optimizer
