"""GAN losses: what discriminator and generator minimize, from the discriminator's logits.

    loss             discriminator                            generator
    minimax          −E log D(x) − E log(1 − D(G(z)))         E log(1 − D(G(z)))
    non_saturating   the same                                 −E log D(G(z))
    hinge            E max(0, 1 − r) + E max(0, 1 + f)        −E f
    least_squares    E (r − 1)² + E f²                        E (f − 1)²
    wgan_gp          E f − E r + λ E(‖∇ D(x̂)‖ − 1)²           −E f

D = σ(logit); r are the logits of real images, f those of generated ones. Goodfellow et al. 2014
(arXiv:1406.2661), equation 1 and section 3; Lim and Ye 2017 (arXiv:1705.02894); Mao et al. 2017
(arXiv:1611.04076), equation 9; Arjovsky et al. 2017 (arXiv:1701.07875); gradient penalty: Gulrajani et al.
2017 (arXiv:1704.00028), equation 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]


class GanLoss(NamedTuple):
    """The losses `discriminator(real, fake)` and `generator(fake)`: means over the batch."""

    discriminator: Callable[[Logits, Logits], Scalar]
    generator: Callable[[Logits], Scalar]
    has_gradient_penalty: bool = False


def bce_loss(real: Logits, fake: Logits) -> Scalar:
    """Binary cross-entropy: real images are labeled 1, generated ones 0."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()  # −log σ(a) = softplus(−a)


def hinge_loss(real: Logits, fake: Logits) -> Scalar:
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def least_squares_loss(real: Logits, fake: Logits) -> Scalar:
    return (real - 1).square().mean() + fake.square().mean()


LEAST_SQUARES = GanLoss(least_squares_loss, lambda fake: (fake - 1).square().mean())
GAN_LOSSES = {
    "non_saturating": GanLoss(bce_loss, lambda fake: F.softplus(-fake).mean()),
    "minimax": GanLoss(bce_loss, lambda fake: -F.softplus(fake).mean()),
    "hinge": GanLoss(hinge_loss, lambda fake: -fake.mean()),
    "wgan_gp": GanLoss(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean(), True),
}


def gradient_penalty(
    discriminator: Callable[[Tensor], Logits],
    real: Float[Tensor, "batch *shape"],
    fake: Float[Tensor, "batch *shape"],
    weight: Float[Tensor, " batch"],
) -> Scalar:
    """E(‖∇ D(x̂)‖₂ − 1)², at x̂ = weight·real + (1 − weight)·fake.

    Args:
        discriminator: scores each image by itself. With batch norm, the gradient would be that of the
            whole batch.
        weight: interpolation weights, uniform on 0..1.
    """
    weight = weight.view(-1, *[1] * (real.ndim - 1))
    x = torch.lerp(fake.detach(), real.detach(), weight).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def r1_penalty(
    discriminator: Callable[[Tensor], Logits], real: Float[Tensor, "batch *shape"]
) -> Float[Tensor, " batch"]:
    """‖∇ D(x)‖₂² of each real image: D is to be flat at the data (Mescheder et al. 2018, arXiv:1801.04406,
    equation 9, without γ/2).

    Args:
        discriminator: scores each image by itself, but for what it computes of the batch as a whole.
    """
    x = real.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)
