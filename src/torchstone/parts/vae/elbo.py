"""Variational lower bounds on the likelihood of a latent-variable model: ELBO and IWAE.

    log p(x) ≥ E_q log p(x|z) − KL(q(z|x) ‖ p(z))               Kingma and Welling 2013 (arXiv:1312.6114), 3
    log p(x) ≥ E log (1/k) Σ p(x, z_i) / q(z_i|x)               Burda et al. 2015 (arXiv:1509.00519), 8

for q(z|x) = N(mean, exp(logvar)), z = mean + exp(logvar / 2) ε, p(z) = N(0, I), and Bernoulli pixels that
are independent given z. All in nats; with k = 1 the second is an estimate of the first.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Latent = Float[Tensor, "batch latent"]


def reparameterize(
    mean: Latent, logvar: Latent, epsilon: Float[Tensor, "batch *samples latent"]
) -> Float[Tensor, "batch *samples latent"]:
    """z = mean + σ ε: a sample that gradients pass through (Kingma and Welling, 2.4)."""
    sample_dims = [1] * (epsilon.ndim - 2)
    mean, logvar = (each.unflatten(0, (-1, *sample_dims)) for each in (mean, logvar))
    return mean + (0.5 * logvar).exp() * epsilon


def kl_to_prior(mean: Latent, logvar: Latent) -> Latent:
    """KL(N(mean, exp(logvar)) ‖ N(0, 1)) of each latent (Kingma and Welling, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def bernoulli_log_prob(
    logits: Float[Tensor, "batch *samples channel height width"],
    x: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch *samples"]:
    """log p(x|z) = Σ x log p + (1 − x) log(1 − p), over all pixels.

    Gray values between 0 and 1 are allowed. The result is then their cross-entropy, not a probability of x.
    """
    x = x.unflatten(0, (-1, *[1] * (logits.ndim - x.ndim))).expand_as(logits)
    per_pixel = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -per_pixel.flatten(-3).sum(-1)


def beta_kl(kl: Latent, beta: float = 1.0, free_bits: float = 0.0) -> Float[Tensor, ""]:
    """The KL term of a batch: β Σ_j max(free_bits, KL_j), KL_j averaged over the batch.

    β: Higgins et al. 2017. Free bits: Kingma et al. 2016 (arXiv:1606.04934), equation 15. The first
    `free_bits` nats of each latent cost nothing, so that no latent collapses before it is of use.
    """
    return beta * kl.mean(0).clamp(min=free_bits).sum()


def log_importance_weights(
    log_likelihood: Float[Tensor, "batch samples"],
    z: Float[Tensor, "batch samples latent"],
    epsilon: Float[Tensor, "batch samples latent"],
    logvar: Latent,
) -> Float[Tensor, "batch samples"]:
    """log p(x|z) + log p(z) − log q(z|x) of each sample, z = mean + σ ε."""
    # the normalization constants of the two Gaussians cancel
    prior, posterior = -0.5 * z.square(), -0.5 * (epsilon.square() + logvar[:, None])
    return log_likelihood + (prior - posterior).sum(2)


def iwae_bound(log_weights: Float[Tensor, "batch samples"]) -> Float[Tensor, " batch"]:
    """log (1/k) Σ exp(log_weights): the importance-weighted bound of k samples."""
    return torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[1])
