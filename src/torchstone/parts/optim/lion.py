"""Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum.

    u = sign(β₁·m + (1 − β₁)·g)
    w ← w − η·(u + λ·w)                     decay decoupled, of the same w
    m ← β₂·m + (1 − β₂)·g

Every weight moves by η, so η is usually 3 to 10 times smaller than AdamW's, and λ as much larger.
"""

import torch
from torch import Tensor

from torchstone.parts.optim.gradients import closure_loss, descend, weights_with_gradients


def lion_update(
    w: Tensor, g: Tensor, m: Tensor, betas: tuple[float, float], shrink: float, lr: float
) -> None:
    """The step, in place; `shrink` is 1 − η·λ."""
    u = m.lerp(g, 1 - betas[0]).sign_()
    w.mul_(shrink)
    descend(w, u, lr)
    m.lerp_(g, 1 - betas[1])


class Lion(torch.optim.Optimizer):
    """Lion; torch has none. One moment of memory for each weight, half of Adam's."""

    update = staticmethod(lion_update)

    def __init__(
        self,
        params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure_loss(closure)
        for w, g, state, group in weights_with_gradients(self):
            if "exp_avg" not in state:
                state["exp_avg"] = torch.zeros_like(w)
            shrink = 1 - group["lr"] * group["weight_decay"]
            self.update(w, g, state["exp_avg"], group["betas"], shrink, group["lr"])
        return loss
