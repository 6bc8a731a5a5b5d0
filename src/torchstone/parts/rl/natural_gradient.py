"""Natural gradients: the Fisher information as a product with vectors, and the linear system F x = g.

F is the Hessian of the mean KL divergence between a policy and itself, at equal parameters (Amari 1998;
Kakade 2001). It is never formed: a product F v costs two backward passes, and conjugate gradients need
such products only (Schulman et al. 2015, arXiv:1502.05477, appendix C).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.parts.flat_gradient import flat_gradient


def hessian_vector_product(
    value: Float[Tensor, ""], parameters: Sequence[Tensor], damping: float = 0.0
) -> Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]:
    """v -> (H + damping I) v, with H the Hessian of `value` by `parameters` as one vector. Of a mean KL
    divergence at equal parameters this is the Fisher-vector product.

    Args:
        value: a scalar with a graph; it is kept, so that the product may be asked for often.
    """
    gradient = flat_gradient(value, parameters, create_graph=True)

    def product(vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        # ∂(∇value · v)/∂θ = H v
        second = torch.autograd.grad(
            gradient, parameters, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([g.flatten() for g in second]) + damping * vector

    return product


def conjugate_gradient(
    matvec: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]],
    b: Float[Tensor, " n"],
    max_steps: int,
    tolerance: float = 1e-10,
) -> Float[Tensor, " n"]:
    """x of A x = b for a symmetric positive definite A (Hestenes and Stiefel 1952), from x = 0 on.

    Args:
        matvec: v -> A v.
        tolerance: it stops where |A x - b|² is below.
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    square = residual.dot(residual)
    for _ in range(max_steps):
        if square < tolerance:
            break
        product = matvec(direction)
        step = square / direction.dot(product)
        x = x + step * direction
        residual = residual - step * product
        next_square = residual.dot(residual)
        direction = residual + next_square / square * direction
        square = next_square
    return x
