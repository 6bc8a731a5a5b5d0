"""What two players of a generative adversarial game minimise, from the critic's logits.

    game             critic                                   generator
    minimax          −E log D(x) − E log(1 − D(G(z)))         E log(1 − D(G(z)))
    non_saturating   the same                                 −E log D(G(z))
    hinge            E max(0, 1 − r) + E max(0, 1 + f)        −E f
    wgan_gp          E f − E r + λ E(‖∇ D(x̂)‖ − 1)²           −E f

D = σ(logit), r the logits of real and f those of made pictures. Goodfellow et al. 2014
(arXiv:1406.2661), equation 1 and section 3; Lim and Ye 2017 (arXiv:1705.02894); Arjovsky et al. 2017
(arXiv:1701.07875); the penalty of Gulrajani et al. 2017 (arXiv:1704.00028), equation 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]


class Game(NamedTuple):
    """`critic(real, made)` and `generator(made)`: each player's loss, means over the batch."""

    critic: Callable[[Logits, Logits], Scalar]
    generator: Callable[[Logits], Scalar]
    penalised: bool = False


def told_apart(real: Logits, made: Logits) -> Scalar:
    return F.softplus(-real).mean() + F.softplus(made).mean()  # −log σ(a) = softplus(−a)


def held_apart(real: Logits, made: Logits) -> Scalar:
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()


GAMES = {
    "non_saturating": Game(told_apart, lambda made: F.softplus(-made).mean()),
    "minimax": Game(told_apart, lambda made: -F.softplus(made).mean()),
    "hinge": Game(held_apart, lambda made: -made.mean()),
    "wgan_gp": Game(lambda real, made: made.mean() - real.mean(), lambda made: -made.mean(), True),
}


def gradient_penalty(
    critic: Callable[[Tensor], Logits],
    real: Float[Tensor, "batch *shape"],
    made: Float[Tensor, "batch *shape"],
    share: Float[Tensor, " batch"],
) -> Scalar:
    """E(‖∇ critic(x̂)‖₂ − 1)², at x̂ = share·real + (1 − share)·made.

    Args:
        critic: of each picture by itself: with batch norm, the gradient would be of the whole batch.
        share: uniform on 0..1.
    """
    share = share.view(-1, *[1] * (real.ndim - 1))
    between = torch.lerp(made.detach(), real.detach(), share).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
