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
from torch import Tensor

from torchstone.parts.optim.gradients import closure_loss, count_step, descend, weights_with_gradients


def adam_update(
    w: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    v_max: Tensor | None,
    betas: tuple[float, float],
    eps: float,
    l2: float,
    shrink: float | None,
    step_size: float,
    correction2: float,
) -> None:
    """The step, in place: `l2` is Adam's λ, `shrink` AdamW's 1 − η·λ, `step_size` η / (1 − β₁ᵗ) and
    `correction2` √(1 − β₂ᵗ). What changes with t comes as a number: computed in here, it would be
    compiled anew each t."""
    beta1, beta2 = betas
    if shrink is not None:
        w.mul_(shrink)
    if l2:
        g = g.add(w, alpha=l2)
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    if v_max is not None:
        v = torch.maximum(v_max, v, out=v_max)
    scale = v.sqrt().div_(correction2).add_(eps)
    descend(w, m, step_size, scale)


class Adam(torch.optim.Optimizer):
    """`torch.optim.Adam` as its equations. State and options have torch's names."""

    update = staticmethod(adam_update)

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
            t, m, v, (beta1, beta2) = count_step(state), state["exp_avg"], state["exp_avg_sq"], group["betas"]
            lr, weight_decay, decoupled = group["lr"], group["weight_decay"], group["decoupled_weight_decay"]
            l2, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, None)
            numbers = l2, shrink, lr / (1 - beta1**t), math.sqrt(1 - beta2**t)
            self.update(w, g, m, v, state.get("max_exp_avg_sq"), group["betas"], group["eps"], *numbers)
        return loss


AdamW = partial(Adam, weight_decay=1e-2, decoupled_weight_decay=True)
