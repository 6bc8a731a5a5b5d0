"""Gradient updates of networks so small that most of a step goes into visiting parameters one by one."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.engine.traced_gradient import TracedGradient
from torchstone.errors import NotFinite

LARGEST_LAYER = 2**14  # weights: with larger layers, products take so long that calls do not matter


class FlatGradientUpdate:
    """One optimizer step on a loss, as `GradientUpdate`, over one flat vector.

    Parameters and gradients of `model` become views of two vectors. The optimizer knows only those, so that
    clipping and the step are a few operations for any number of layers. Element-wise rules, such as SGD,
    RMSprop and Adam, give the same weights as over separate parameters. Move the model to its device first.

    Args:
        loss: batch -> a mapping with `loss`, and further scalars to log; with `has_aux`, that mapping and
            anything else, such as TD errors, which a call returns beside the metrics.
        traced: run the loss and its gradient as NumPy calls where the layers are small and on the CPU, see
            `TracedGradient`. The loss is then of the batch's tensors alone and of weights, without chance.
        make_optimizer: the vector, as the only parameter -> an optimizer.
        max_grad_norm: largest norm of the whole gradient; the norm before clipping is logged.
        lr_schedule: number of an update -> factor of the optimizer's learning rate, see `schedule_lr`.
    """

    def __init__(
        self,
        loss: Callable[[Any], Any],
        model: nn.Module,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        *,
        max_grad_norm: float | None = None,
        lr_schedule: Callable[[int], float] | None = None,
        has_aux: bool = False,
        traced: bool = False,
    ):
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.loss, self.has_aux = loss, has_aux
        self.max_grad_norm, self.lr_schedule = max_grad_norm, lr_schedule
        self.vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        self.gradient = self.vector.grad = torch.zeros_like(self.vector)
        sizes = [p.numel() for p in parameters]
        pieces = zip(parameters, self.vector.data.split(sizes), self.gradient.split(sizes), strict=True)
        for p, weights, gradient in pieces:
            p.data, p.grad = weights.view_as(p), gradient.view_as(p)
        self.optimizer = make_optimizer([self.vector])
        self.traced_gradient = None
        is_small = self.vector.device.type == "cpu" and max(sizes) <= LARGEST_LAYER
        if traced and is_small:
            pair = loss if has_aux else lambda batch: (loss(batch), None)
            views = [p.grad for p in parameters if p.grad is not None]
            self.traced_gradient = TracedGradient(pair, parameters, views)
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]

    def schedule_lr(self, number: int) -> None:
        """Set the learning rate for update `number`. It depends on nothing else, so it is resumable."""
        if self.lr_schedule is not None:
            factor = self.lr_schedule(number)
            for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
                group["lr"] = lr * factor

    def __call__(self, batch: Any) -> Any:
        if self.traced_gradient is not None:
            metrics, aux = self.traced_gradient(batch)
            metrics = self.apply_gradient(metrics)
            return (metrics, aux) if self.has_aux else metrics
        self.gradient.zero_()
        metrics, aux = self.loss(batch) if self.has_aux else (self.loss(batch), None)
        metrics["loss"].backward()
        metrics = self.apply_gradient(metrics)
        return (metrics, aux) if self.has_aux else metrics

    def apply_gradient(
        self, metrics: Mapping[str, Tensor], gradient: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Step along the accumulated gradient, or along `gradient`; `metrics` are those of its loss."""
        if gradient is not None:
            self.gradient.copy_(gradient)
        loss = metrics["loss"]
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise NotFinite(f"the loss is {loss.item()}")
        numbers = {name: value.detach() for name, value in metrics.items()}
        if self.max_grad_norm is not None:
            numbers["gradient_norm"] = norm = torch.linalg.vector_norm(self.gradient)
            if norm.device.type != "cpu":
                self.gradient.mul_((self.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
            elif (length := norm.item()) > self.max_grad_norm:  # free on the CPU
                self.gradient.mul_(self.max_grad_norm / (length + 1e-6))
        self.step()
        return numbers

    @torch.no_grad()
    def step(self) -> None:
        """The optimizer's step. Of fused Adam, its one operation: what `Optimizer.step` does around it, for
        parameters on any devices, takes several times as long."""
        optimizer, vector = self.optimizer, self.vector
        (group,), state = optimizer.param_groups, optimizer.state[vector]
        is_simple = type(optimizer) is torch.optim.Adam and group["fused"] and not group["amsgrad"]
        if not (is_simple and state):  # the first step makes the state
            optimizer.step()
            return
        beta1, beta2 = group["betas"]
        state["step"].add_(1)
        torch._fused_adam_(
            [vector],
            [self.gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )
