"""The cumulative distribution of a mixture of logistics as an increasing map of the line, and its inverse.

Ho, Chen, Srinivas, Duan and Abbeel 2019 (Flow++, arXiv:1902.00275), section 3.2.1. Unlike an affine map, it
can stretch several intervals and squeeze the gaps between them:

    F(x) = Σ_k π_k σ(z_k),    z_k = (x − μ_k) / s_k
    y = σ⁻¹(F(x)) = log F(x) − log(1 − F(x)),    dy/dx = f(x) / (F(x) (1 − F(x)))

1 − F = Σ_k π_k σ(−z_k) is summed by itself, and all sums in logarithms. In the upper tail, where F rounds to
1, y is then as exact as in the lower one: a single logistic gives y = z to the last digits, however large.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BISECTIONS = 60  # halvings of a bracket; beyond those that double precision can tell apart

Numbers = Float[Tensor, "*batch"]


class LogisticMixture(NamedTuple):
    """For each number a mixture of its own: `logits` of π, means μ, and log s."""

    logits: Float[Tensor, "*batch components"]
    mean: Float[Tensor, "*batch components"]
    log_scale: Float[Tensor, "*batch components"]

    def log_parts(self, x: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """log F(x), log(1 − F(x)) and log f(x)."""
        log_weight = self.logits.log_softmax(-1)
        z = (x[..., None] - self.mean) * (-self.log_scale).exp()
        below = F.logsigmoid(z)
        above = below - z
        terms = torch.stack([below, above, below + above - self.log_scale])
        log_cdf, log_survival, log_density = torch.logsumexp(log_weight + terms, -1)
        return log_cdf, log_survival, log_density

    def log_prob(self, x: Numbers) -> Numbers:
        """log f(x), in nats."""
        return self.log_parts(x)[2]

    def logit_cdf(self, x: Numbers) -> tuple[Numbers, Numbers]:
        """y = σ⁻¹(F(x)) and log dy/dx of each number."""
        log_cdf, log_survival, log_density = self.log_parts(x)
        return log_cdf - log_survival, log_density - log_cdf - log_survival

    def inverse_logit_cdf(self, y: Numbers) -> Numbers:
        """The x of `logit_cdf`, by bisection; its gradients are those of the implicit function theorem."""
        x = self.bisect(y)
        if not torch.is_grad_enabled():
            return x
        value, log_slope = self.logit_cdf(x)
        step = (value - y) * (-log_slope).exp().detach()
        return x - (step - step.detach())

    @torch.no_grad()
    def bisect(self, y: Numbers) -> Numbers:
        """The level σ(y) is reached by component k at μ_k + s_k y, so that x lies between the least and the
        greatest of these. The search runs in double precision where the device has it: where the mixture is
        nearly flat, y changes by less than single precision resolves while x moves a long way.
        """
        dtype = y.dtype if y.device.type == "mps" else torch.float64
        mixture = LogisticMixture(*(each.to(dtype) for each in self))
        level = y.to(dtype)
        quantiles = mixture.mean + mixture.log_scale.exp() * level[..., None]
        low, high = quantiles.amin(-1), quantiles.amax(-1)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            log_cdf, log_survival, _ = mixture.log_parts(middle)
            is_below = log_cdf - log_survival < level
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        return ((low + high) / 2).to(y.dtype)
