"""Lower bounds on a likelihood that has an unseen cause.

    log p(x) ≥ E_q log p(x|z) − KL(q(z|x) ‖ p(z))               Kingma and Welling 2013 (arXiv:1312.6114), 3
    log p(x) ≥ E log (1/k) Σ p(x, z_i) / q(z_i|x)               Burda et al. 2015 (arXiv:1509.00519), 8

for q(z|x) = N(mean, exp(logvar)), z = mean + exp(logvar / 2) ε, p(z) = N(0, I), and pixels that are on
or off, each by itself given z. All in nats; with k = 1 the second is an estimate of the first.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Latent = Float[Tensor, "batch latent"]


def drawn(
    mean: Latent, logvar: Latent, epsilon: Float[Tensor, "batch *samples latent"]
) -> Float[Tensor, "batch *samples latent"]:
    """z = mean + σ ε: the sample as a function one can differentiate (Kingma and Welling, 2.4)."""
    between = [1] * (epsilon.ndim - 2)
    mean, logvar = (each.unflatten(0, (-1, *between)) for each in (mean, logvar))
    return mean + (0.5 * logvar).exp() * epsilon


def divergence(mean: Latent, logvar: Latent) -> Latent:
    """KL(N(mean, exp(logvar)) ‖ N(0, 1)) of each latent (Kingma and Welling, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def on_or_off(
    logits: Float[Tensor, "batch *samples channel height width"],
    x: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch *samples"]:
    """log p(x|z) = Σ x log p + (1 − x) log(1 − p), over all pixels.

    Shades between 0 and 1 are allowed; then it is no probability of x but the cross-entropy of them.
    """
    x = x.unflatten(0, (-1, *[1] * (logits.ndim - x.ndim))).expand_as(logits)
    each = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -each.flatten(-3).sum(-1)


def paid(divergences: Latent, beta: float = 1.0, free: float = 0.0) -> Float[Tensor, ""]:
    """What a batch's latents cost, in the mean of it: β Σ_j max(free, KL_j).

    Higgins et al. 2017 (β); Kingma et al. 2016 (arXiv:1606.04934), equation 15: of each latent the mean over
    the batch is free up to so many nats, lest it be given up before it is of use.
    """
    return beta * divergences.mean(0).clamp(min=free).sum()


def log_weights(
    likelihood: Float[Tensor, "batch samples"],
    z: Float[Tensor, "batch samples latent"],
    epsilon: Float[Tensor, "batch samples latent"],
    logvar: Latent,
) -> Float[Tensor, "batch samples"]:
    """log p(x|z) + log p(z) − log q(z|x) of each sample, z = mean + σ ε."""
    # the two Gaussians' constants are the same
    prior, posterior = -0.5 * z.square(), -0.5 * (epsilon.square() + logvar[:, None])
    return likelihood + (prior - posterior).sum(2)


def importance(weights: Float[Tensor, "batch samples"]) -> Float[Tensor, " batch"]:
    """log of the mean of exp(weights)."""
    return torch.logsumexp(weights, 1) - math.log(weights.shape[1])
