"""An element-wise optimizer over one vector: the whole network in a few operations, however many layers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


def flat_optimizer(
    make_optimizer: Callable[..., torch.optim.Optimizer],
    parameters: Iterable[nn.Parameter],
    *,
    compiled: bool = False,
    **options: Any,
) -> torch.optim.Optimizer:
    """`make_optimizer` over one vector that the parameters become views of. Its `step` first gathers their
    gradients. Rules that work element by element (all here but Muon) give the same weights as over separate
    parameters; a step of a small network costs as much as a fused one. Its state is one vector, so that it
    is not that of the separate parameters. Gradients are the parameters' own: clear them by the module's
    `zero_grad`; where one is None it counts as 0.

    `compiled`: the optimizer's `update` (all here but Muon have one) becomes one kernel, by `torch.compile`
    at its first step. A changing learning rate compiles nothing anew.

    Raises:
        ValueError: an optimizer without an element-wise update is to be compiled.
    """
    parameters = list(parameters)
    sizes = [p.numel() for p in parameters]
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    for p, weights in zip(parameters, vector.data.split(sizes), strict=True):
        p.data = weights.view(p.shape)
    vector.grad = torch.zeros_like(vector)
    slices = [part.view(p.shape) for part, p in zip(vector.grad.split(sizes), parameters, strict=True)]
    optimizer = make_optimizer([vector], **options)
    if compiled:
        update = getattr(optimizer, "update", None)
        if update is None:
            raise ValueError(f"{type(optimizer).__name__} has no element-wise update to compile")
        setattr(optimizer, "update", torch.compile(update))  # noqa: B010 (an attribute that Optimizer lacks)

    @torch.no_grad()
    def gather(*_: Any) -> None:
        # into slices that backward accumulates in would save this pass, and cost two: clearing and adding
        torch._foreach_copy_(slices, [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])

    optimizer.register_step_pre_hook(gather)
    return optimizer
