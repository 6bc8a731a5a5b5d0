"""Muon (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982): momentum whose matrix is orthogonalized.

    B ← μ·B + (1 − μ)·G
    O = orthogonalize(μ·B + (1 − μ)·G)      Nesterov; without it orthogonalize(B)
    W ← (1 − η·λ)·W − η·s·O                 W (rows, columns); λ decoupled weight decay

orthogonalize(B) is near U·Vᵀ of B = U·Σ·Vᵀ: every direction counts alike. s is √max(1, rows/columns)
("original"), or 0.2·√max(rows, columns), whose step has the root mean square of AdamW's and takes its η
("match_rms_adamw").

`torch.optim.Muon` casts the iteration to bfloat16 and takes matrices only. This one iterates in the weights'
own precision unless `dtype` says otherwise (with `torch.bfloat16` it is torch's), and reads a filter
(out, in, *kernel) as the matrix (out, in·kernel).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.parts.optim.gradients import closure_loss, weights_with_gradients

# of Jordan et al.: the slope at 0 is as steep as it can be, and singular values end between 0.7 and 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(
    matrix: Float[Tensor, "rows columns"],
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = 5,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "rows columns"]:
    """Newton–Schulz: X ← a·X + b·(XXᵀ)X + c·(XXᵀ)²X from X = B/‖B‖, which maps each singular value σ to
    aσ + bσ³ + cσ⁵ and leaves the singular vectors. `dtype` is that of the iteration and of the result."""
    a, b, c = coefficients
    x = matrix if dtype is None else matrix.to(dtype)
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x  # the smaller product
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


SCALES = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` as its equations, for matrices and filters. Biases, norms, embeddings and the
    output layer belong to another optimizer, usually AdamW."""

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        dtype: torch.dtype | None = None,
    ):
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        options |= {"ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps}
        super().__init__(params, options | {"adjust_lr_fn": adjust_lr_fn})
        self.dtype = dtype
        flat = [p for group in self.param_groups for p in group["params"] if p.ndim < 2]
        if flat:
            shape = tuple(flat[0].shape)
            raise ValueError(f"Muon is for matrices and filters, not for a weight of shape {shape}")

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure_loss(closure)
        for w, g, state, group in weights_with_gradients(self):
            lr, mu = group["lr"], group["momentum"]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(w)
            b = state["momentum_buffer"].lerp_(g, 1 - mu)
            direction = (g.lerp(b, mu) if group["nesterov"] else b).flatten(1)
            o = orthogonalize(
                direction, group["ns_coefficients"], group["ns_steps"], group["eps"], self.dtype
            )
            scale = SCALES[group["adjust_lr_fn"] or "original"](*direction.shape)
            w.mul_(1 - lr * group["weight_decay"]).add_(o.reshape(w.shape), alpha=-lr * scale)
        return loss
