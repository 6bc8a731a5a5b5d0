"""What every written optimizer visits: its weights, with their gradients and what is remembered of them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def weights_with_gradients(
    optimizer: torch.optim.Optimizer,
) -> Iterator[tuple[Tensor, Tensor, dict[str, Any], dict[str, Any]]]:
    """(weight w, gradient g, its state, options of its group) of each weight that has a gradient.

    g is −∇L where the group has `maximize`. Frozen weights, and those that a loss did not reach, are skipped
    as torch does: their state and their decay stand still.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                gradient = -weight.grad if group.get("maximize") else weight.grad
                yield weight, gradient, optimizer.state[weight], group


def count_step(state: dict[str, Any]) -> int:
    """Count one step more in `state["step"]`, a scalar tensor as torch's optimizers have, and return it."""
    step = state.setdefault("step", torch.tensor(0.0, dtype=torch.float32))
    step += 1
    return int(step)


def closure_loss(closure: Callable[[], Any] | None) -> Any:
    """The loss that `step(closure)` returns: the closure's, with gradients enabled; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
