"""Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum.

    u = sign(β₁·m + (1 − β₁)·g)
    w ← w − η·(u + λ·w)                     decay decoupled, of the same w
    m ← β₂·m + (1 − β₂)·g

Every weight moves by η, so η is usually 3 to 10 times smaller than AdamW's, and λ as much larger.
"""

import torch

from torchstone.parts.optim.gradients import closure_loss, weights_with_gradients


class Lion(torch.optim.Optimizer):
    """Lion; torch has none. One moment of memory for each weight, half of Adam's."""

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
            m, lr, (beta1, beta2) = state["exp_avg"], group["lr"], group["betas"]
            u = m.lerp(g, 1 - beta1).sign_()
            w.mul_(1 - lr * group["weight_decay"]).add_(u, alpha=-lr)
            m.lerp_(g, 1 - beta2)
        return loss
