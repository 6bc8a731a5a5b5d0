"""Adam (Kingma and Ba 2014, arXiv:1412.6980, algorithm 1) and AdamW (Loshchilov and Hutter 2017,
arXiv:1711.05101, algorithm 2).

    m ← β₁·m + (1 − β₁)·g                   first moment
    v ← β₂·v + (1 − β₂)·g²                  second moment
    m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)   both begin at 0, which this corrects
    w ← w − η · m̂ / (√v̂ + ε)

Weight decay λ: Adam has it in the gradient, g = ∇L + λ·w, where √v̂ divides it too; AdamW decouples it:
w ← w − η·λ·w, before the step. `amsgrad` (Reddi, Kale and Kumar 2018, arXiv:1904.09237) divides by the
largest v by then.
"""

import math
from functools import partial

import torch

from torchstone.parts.optim.gradients import closure_loss, count_step, weights_with_gradients


class Adam(torch.optim.Optimizer):
    """`torch.optim.Adam` as its equations. State and options have torch's names."""

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        options |= {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure_loss(closure)
        for w, g, state, group in weights_with_gradients(self):
            if not state:
                names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
                state.update({name: torch.zeros_like(w) for name in names})
            t, m, v = count_step(state), state["exp_avg"], state["exp_avg_sq"]
            lr, (beta1, beta2) = group["lr"], group["betas"]
            if group["decoupled_weight_decay"]:
                w.mul_(1 - lr * group["weight_decay"])
            elif group["weight_decay"]:
                g = g.add(w, alpha=group["weight_decay"])
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            if group["amsgrad"]:
                v = torch.maximum(state["max_exp_avg_sq"], v, out=state["max_exp_avg_sq"])
            scale = v.sqrt().div_(math.sqrt(1 - beta2**t)).add_(group["eps"])
            w.addcdiv_(m, scale, value=-lr / (1 - beta1**t))
        return loss


AdamW = partial(Adam, weight_decay=1e-2, decoupled_weight_decay=True)
