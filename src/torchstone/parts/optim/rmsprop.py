"""RMSProp (Tieleman and Hinton 2012, lecture 6e; centered: Graves 2013, arXiv:1308.0850, section 4.2).

    v ← α·v + (1 − α)·g²
    m ← α·m + (1 − α)·g                     centered only, else m = 0
    u = g / (√(v − m²) + ε)
    w ← w − η·u                             without momentum
    b ← μ·b + u,   w ← w − η·b              with momentum μ

with g = ∇L + λ·w. ε is outside of the root, as in torch; TensorFlow has it inside.
"""

import torch
from torch import Tensor

from torchstone.parts.optim.gradients import closure_loss, count_step, descend, weights_with_gradients


def rmsprop_update(
    w: Tensor,
    g: Tensor,
    v: Tensor,
    m: Tensor | None,
    b: Tensor | None,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
) -> None:
    """The step, in place; m where it is centered, b where it has momentum."""
    if weight_decay:
        g = g.add(w, alpha=weight_decay)
    v.mul_(alpha).addcmul_(g, g, value=1 - alpha)
    if m is not None:
        m.lerp_(g, 1 - alpha)
        v = v.addcmul(m, m, value=-1)
    scale = v.sqrt().add_(eps)
    if b is not None:
        b.mul_(momentum).addcdiv_(g, scale)
        descend(w, b, lr)
    else:
        descend(w, g, lr, scale)


class RMSprop(torch.optim.Optimizer):
    """`torch.optim.RMSprop` as its equations. State and options have torch's names."""

    update = staticmethod(rmsprop_update)

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ):
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, options | {"centered": centered, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure_loss(closure)
        for w, g, state, group in weights_with_gradients(self):
            if not state:
                buffers = {"momentum_buffer": group["momentum"], "grad_avg": group["centered"]}
                names = ["square_avg", *(name for name, used in buffers.items() if used)]
                state.update({name: torch.zeros_like(w) for name in names})
            count_step(state)
            v, m, b = state["square_avg"], state.get("grad_avg"), state.get("momentum_buffer")
            options = "lr", "alpha", "eps", "weight_decay", "momentum"
            self.update(w, g, v, m, b, *(group[name] for name in options))
        return loss
