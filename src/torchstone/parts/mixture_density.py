"""Mixture-density output: each number of a vector has a mixture of Gaussians of its own (Bishop, "Mixture
density networks", 1994).

`torch.distributions.MixtureSameFamily` gives the same value and gradient.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class MixtureDensity(NamedTuple):
    """`logits` of the components, and the mean and log deviation of each."""

    logits: Float[Tensor, "*batch dims components"]
    mean: Float[Tensor, "*batch dims components"]
    log_std: Float[Tensor, "*batch dims components"]

    def log_prob(self, x: Float[Tensor, "*batch dims"]) -> Float[Tensor, "*batch dims"]:
        """log Σ_k π_k N(x; μ_k, σ_k²) of each number, in nats."""
        scaled = (x[..., None] - self.mean) * (-self.log_std).exp()
        log_density = -0.5 * scaled.square() - self.log_std - HALF_LOG_TWO_PI
        return torch.logsumexp(self.logits.log_softmax(-1) + log_density, -1)

    def sample(
        self,
        uniform: Float[Tensor, "*batch dims"],
        normal: Float[Tensor, "*batch dims"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "*batch dims"]:
        """A sample for given noise: uniform, by which the component is chosen, and standard normal.

        Args:
            temperature: τ; logits are divided by it, and variances multiplied.
        """
        share = (self.logits / temperature).softmax(-1).cumsum(-1)
        index = (uniform[..., None] > share[..., :-1]).sum(-1, keepdim=True)
        mean, log_std = (each.gather(-1, index)[..., 0] for each in (self.mean, self.log_std))
        return mean + log_std.exp() * math.sqrt(temperature) * normal
