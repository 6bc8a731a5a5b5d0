"""Path length regularization: a step in style space changes the image by the same amount everywhere.

Karras et al. 2020 (arXiv:1912.04958), section 3.2, equation 4: E (‖Jᵀ y‖₂ − a)², where J = ∂G/∂w, y is
N(0, I) over pixels, and a is the running mean of ‖Jᵀ y‖₂.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def path_lengths(
    images: Float[Tensor, "batch channel height width"],
    styles: Float[Tensor, "batch layers style"],
    noise: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, " batch"]:
    """‖Jᵀ y‖₂ of each image, the root mean square over the layers that have a copy of w; differentiable.

    Args:
        styles: what `images` were computed from, with a graph.
        noise: N(0, I), which is divided by √(height · width), so that lengths do not grow with the image.
    """
    y = noise / math.sqrt(math.prod(images.shape[2:]))
    (gradient,) = torch.autograd.grad((images * y).sum(), styles, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()
