"""Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013).

    b ← μ·b + (1 − d)·g                     momentum μ, dampening d; b = g at the first step
    w ← w − η·b                             Polyak; without momentum b = g
    w ← w − η·(g + μ·b)                     Nesterov

with g = ∇L + λ·w: weight decay λ is an L2 penalty ½λ‖w‖². The velocity b holds no η, as in torch, so a
schedule changes the step at once; Sutskever et al. write it into b.
"""

import torch
from torch import Tensor

from torchstone.parts.optim.gradients import closure_loss, descend, weights_with_gradients


def sgd_update(
    w: Tensor,
    g: Tensor,
    b: Tensor | None,
    momentum: float,
    dampening: float,
    weight_decay: float,
    gradient_lr: float | None,
    velocity_lr: float,
) -> Tensor | None:
    """The step, in place: −η·g of Nesterov's `gradient_lr`, −η·b or its −η·μ·b. Returns the velocity b, which
    the first step with momentum begins."""
    if weight_decay:
        g = g.add(w, alpha=weight_decay)
    if not momentum:
        descend(w, g, velocity_lr)
        return None
    if b is None:
        b = g.clone()
    elif dampening:
        b.mul_(momentum).add_(g, alpha=1 - dampening)
    else:
        torch.add(g, b, alpha=momentum, out=b)  # the same in one pass
    if gradient_lr is not None:
        descend(w, g, gradient_lr)
    descend(w, b, velocity_lr)
    return b


class SGD(torch.optim.Optimizer):
    """`torch.optim.SGD` as its equations. State and options have torch's names: each reads the other's."""

    update = staticmethod(sgd_update)

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov's momentum needs a momentum above 0 and no dampening")
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, options | {"nesterov": nesterov, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure_loss(closure)
        for w, g, state, group in weights_with_gradients(self):
            lr, mu = group["lr"], group["momentum"]
            lrs = (lr, lr * mu) if group["nesterov"] else (None, lr)
            b = state.get("momentum_buffer")
            b = self.update(w, g, b, mu, group["dampening"], group["weight_decay"], *lrs)
            if b is not None:
                state["momentum_buffer"] = b
        return loss
