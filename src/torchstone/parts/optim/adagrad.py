"""AdaGrad (Duchi, Hazan and Singer 2011, JMLR 12:2121, figure 1): a rate for each weight that only falls.

    s ← s + g²
    w ← w − η_t · g / (√s + ε),     η_t = η / (1 + (t − 1)·κ)

with g = ∇L + λ·w. The decay κ of the rate is torch's addition, 0 in the paper.
"""

import torch
from torch import Tensor

from torchstone.parts.optim.gradients import closure_loss, count_step, descend, weights_with_gradients


def adagrad_update(w: Tensor, g: Tensor, s: Tensor, lr: float, eps: float, weight_decay: float) -> None:
    """The step, in place; `lr` is the one of this step, its decay included."""
    if weight_decay:
        g = g.add(w, alpha=weight_decay)
    s.addcmul_(g, g)
    descend(w, g, lr, s.sqrt().add_(eps))


class Adagrad(torch.optim.Optimizer):
    """`torch.optim.Adagrad` as its equations. State and options have torch's names."""

    update = staticmethod(adagrad_update)

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        options |= {"initial_accumulator_value": initial_accumulator_value, "maximize": maximize}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure_loss(closure)
        for w, g, state, group in weights_with_gradients(self):
            if "sum" not in state:
                state["sum"] = torch.full_like(w, group["initial_accumulator_value"])
            lr = group["lr"] / (1 + (count_step(state) - 1) * group["lr_decay"])
            self.update(w, g, state["sum"], lr, group["eps"], group["weight_decay"])
        return loss
