"""Spectral normalization: divides a weight by its largest singular value, so that the layer is 1-Lipschitz.

Miyato, Kataoka, Koyama and Yoshida 2018 (arXiv:1802.05957), algorithm 1: W / σ(W), where the largest
singular value σ is tracked by one step of power iteration at each training pass.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

WARMUP_ITERATIONS = 15  # at the start, from a random direction
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # output channels are dimension 1
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


class SpectralNorm(nn.Module):
    """W / σ, with W read as a matrix from all other dimensions to dimension `dim`.

    Args:
        iterations: power iterations at each training pass; none in evaluation mode.
    """

    u: Float[Tensor, " outputs"]
    v: Float[Tensor, " inputs"]

    def __init__(self, weight: Tensor, dim: int = 0, iterations: int = 1, eps: float = 1e-12):
        super().__init__()
        self.dim, self.iterations, self.eps = dim, iterations, eps
        matrix = self.matrix(weight.detach())
        for name, side in zip("uv", matrix.shape, strict=True):
            self.register_buffer(name, F.normalize(matrix.new_empty(side).normal_(), dim=0, eps=eps))
        self.power_iteration(matrix, WARMUP_ITERATIONS)

    def matrix(self, weight: Tensor) -> Float[Tensor, "outputs inputs"]:
        return weight.movedim(self.dim, 0).flatten(1)

    @torch.no_grad()
    def power_iteration(self, matrix: Float[Tensor, "outputs inputs"], iterations: int) -> None:
        """v ← Wᵀu / ‖Wᵀu‖, u ← Wv / ‖Wv‖."""
        if matrix.is_meta:  # a network that is only counted
            return
        for _ in range(iterations):
            self.v.copy_(F.normalize(matrix.mT @ self.u, dim=0, eps=self.eps))
            self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = self.matrix(weight)
        if self.training:
            self.power_iteration(matrix.detach(), self.iterations)
        # copies: a second forward pass updates them before the first one's gradient is taken
        u, v = self.u.clone(), self.v.clone()
        return weight / (u @ matrix @ v)  # σ = uᵀWv


def apply_spectral_norm(module: nn.Module, iterations: int = 1) -> nn.Module:
    """Normalize the weight of every linear layer and convolution in `module`, itself included, in place."""
    for layer in list(module.modules()):
        if isinstance(layer, LAYERS):
            dim = 1 if isinstance(layer, TRANSPOSED) else 0
            norm = SpectralNorm(layer.weight, dim, iterations)
            parametrize.register_parametrization(layer, "weight", norm)
    return module
