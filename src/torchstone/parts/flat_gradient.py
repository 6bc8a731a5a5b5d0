"""The gradient by several parameters as one vector."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def flat_gradient(
    value: Float[Tensor, ""], parameters: Iterable[Tensor], *, create_graph: bool = False
) -> Float[Tensor, " n"]:
    """∂value/∂parameters as one vector, in their order; 0 for parameters that the value does not depend on.

    Args:
        create_graph: as of `torch.autograd.grad`.
    """
    gradients = torch.autograd.grad(
        value, list(parameters), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])
