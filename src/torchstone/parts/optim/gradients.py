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


def descend(w: Tensor, direction: Tensor, step_size: float, scale: Tensor | None = None) -> None:
    """w ← w − step_size · direction / scale, in place, as one call that allocates nothing.

    A compiled function multiplies instead: `alpha` and `value` are constants of it, so that each new rate
    would be compiled anew."""
    if torch.compiler.is_compiling():
        w.sub_(direction * step_size if scale is None else direction / scale * step_size)
    elif scale is None:
        w.add_(direction, alpha=-step_size)
    else:
        w.addcdiv_(direction, scale, value=-step_size)


def closure_loss(closure: Callable[[], Any] | None) -> Any:
    """The loss that `step(closure)` returns: the closure's, with gradients enabled; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
