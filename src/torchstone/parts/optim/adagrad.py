"""AdaGrad (Duchi, Hazan and Singer 2011, JMLR 12:2121, figure 1): a rate for each weight that only falls.

    s ← s + g²
    w ← w − η_t · g / (√s + ε),     η_t = η / (1 + (t − 1)·κ)

with g = ∇L + λ·w. The decay κ of the rate is torch's addition, 0 in the paper.
"""

import torch

from torchstone.parts.optim.gradients import closure_loss, count_step, weights_with_gradients


class Adagrad(torch.optim.Optimizer):
    """`torch.optim.Adagrad` as its equations. State and options have torch's names."""

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
            t, s = count_step(state), state["sum"]
            if group["weight_decay"]:
                g = g.add(w, alpha=group["weight_decay"])
            s.addcmul_(g, g)
            w.addcdiv_(g, s.sqrt().add_(group["eps"]), value=-group["lr"] / (1 + (t - 1) * group["lr_decay"]))
        return loss
