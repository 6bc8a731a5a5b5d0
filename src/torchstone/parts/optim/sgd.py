"""Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013).

    b ← μ·b + (1 − d)·g                     momentum μ, dampening d; b = g at the first step
    w ← w − η·b                             Polyak; without momentum b = g
    w ← w − η·(g + μ·b)                     Nesterov

with g = ∇L + λ·w: weight decay λ is an L2 penalty ½λ‖w‖². The velocity b holds no η, as in torch, so a
schedule changes the step at once; Sutskever et al. write it into b.
"""

import torch

from torchstone.parts.optim.gradients import closure_loss, weights_with_gradients


class SGD(torch.optim.Optimizer):
    """`torch.optim.SGD` as its equations. State and options have torch's names: each reads the other's."""

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
            mu = group["momentum"]
            if group["weight_decay"]:
                g = g.add(w, alpha=group["weight_decay"])
            if mu:
                b = state.get("momentum_buffer")
                if b is None:
                    b = state["momentum_buffer"] = g.clone()
                elif group["dampening"]:
                    b.mul_(mu).add_(g, alpha=1 - group["dampening"])
                else:
                    torch.add(g, b, alpha=mu, out=b)  # the same in one pass
                if group["nesterov"]:
                    w.add_(g, alpha=-group["lr"])
                w.add_(b, alpha=-group["lr"] * (mu if group["nesterov"] else 1))
            else:
                w.add_(g, alpha=-group["lr"])
        return loss
