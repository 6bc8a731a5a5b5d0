"""Descent for networks so small that most of a step's time goes into visiting their parameters one by one."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import NotFinite


class FlatGradientUpdate:
    """An update that follows a loss downhill, as `engine.update.descend` does, over one long vector.

    Parameters and gradients of `model` become views of two vectors; the optimiser knows only those, so that
    clipping and the step are a few operations for any number of layers. Rules that treat each number by
    itself, such as SGD, RMSprop and Adam, give the same weights as ever. Move the model to its device first.

    Args:
        loss: batch -> a mapping with `loss`, and further scalars to be logged.
        make: the vector, as the only parameter -> an optimiser.
        clip: largest norm of the whole gradient.
    """

    def __init__(
        self,
        loss: Callable[[Any], Mapping[str, Tensor]],
        model: nn.Module,
        make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        max_grad_norm: float | None = None,
    ):
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.loss, self.clip = loss, max_grad_norm
        self.vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        self.gradient = self.vector.grad = torch.zeros_like(self.vector)
        sizes = [p.numel() for p in parameters]
        pieces = zip(parameters, self.vector.data.split(sizes), self.gradient.split(sizes), strict=True)
        for p, weights, gradient in pieces:
            p.data, p.grad = weights.view_as(p), gradient.view_as(p)
        self.optimizer = make([self.vector])

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        self.gradient.zero_()
        metrics = self.loss(batch)
        metrics["loss"].backward()
        return self.follow(metrics)

    def follow(self, metrics: Mapping[str, Tensor], gradient: Tensor | None = None) -> dict[str, Tensor]:
        """Step along the gradient that is there, or along this one; `metrics` are those of its loss."""
        if gradient is not None:
            self.gradient.copy_(gradient)
        loss = metrics["loss"]
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise NotFinite(f"the loss is {loss.item()}")
        numbers = {name: value.detach() for name, value in metrics.items()}
        if self.clip is not None:
            numbers["gradient_norm"] = norm = torch.linalg.vector_norm(self.gradient)
            if norm.device.type != "cpu":
                self.gradient.mul_((self.clip / (norm + 1e-6)).clamp_(max=1.0))
            elif norm.item() > self.clip:  # which costs nothing to know here
                self.gradient.mul_(self.clip / (norm + 1e-6))
        self.optimizer.step()
        return numbers


def gradient_of(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """∂loss/∂parameters as one vector, in their order; those that took no part get 0."""
    parameters = list(parameters)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])
