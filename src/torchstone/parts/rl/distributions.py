"""Action distributions: Categorical, Gaussian and tanh-squashed Gaussian.

Sampling is a function of noise: `noise(shape, generator)` draws it on the CPU, and `sample(noise)` turns it
into actions. So the noise of a whole rollout is drawn at once, and a seed gives the same actions on every
device.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def mask_logits(
    logits: Float[Tensor, "*batch actions"], action_mask: Bool[Tensor, "*batch actions"]
) -> Float[Tensor, "*batch actions"]:
    """Logits with probability 0 where `action_mask` is False. They stay finite, and so do entropy and
    gradient (Huang and Ontañón 2022, arXiv:2006.14171)."""
    return logits.masked_fill(~action_mask, torch.finfo(logits.dtype).min)


class Categorical(NamedTuple):
    """One of n actions, p = softmax(logits)."""

    logits: Float[Tensor, "*batch actions"]

    @staticmethod
    def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise, -log E with E exponential: argmax(logits + noise) samples (Maddison et al. 2014)."""
        return torch.empty(shape).exponential_(generator=generator).log_().neg_()

    def sample(self, noise: Float[Tensor, "*batch actions"]) -> Int64[Tensor, "*batch"]:
        return (self.logits + noise).argmax(-1)

    def mode(self) -> Int64[Tensor, "*batch"]:
        return self.logits.argmax(-1)

    def log_prob(self, action: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.logits.log_softmax(-1).gather(-1, action[..., None])[..., 0]

    def entropy(self) -> Float[Tensor, "*batch"]:
        log_probs = self.logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def kl_divergence(self, other: "Categorical") -> Float[Tensor, "*batch"]:
        """KL(self ‖ other) in nats."""
        log_probs = self.logits.log_softmax(-1)
        return (log_probs.exp() * (log_probs - other.logits.log_softmax(-1))).sum(-1)


class Gaussian(NamedTuple):
    """Independent normals. Samples may lie outside the env's bounds, to which the env then clips them."""

    mean: Float[Tensor, "*batch actions"]
    log_std: Float[Tensor, "*#batch actions"]

    @staticmethod
    def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator)

    def sample(self, noise: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Float[Tensor, "*batch actions"]:
        return self.mean

    def log_prob(self, action: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch"]:
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - HALF_LOG_TAU).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        return (self.log_std + 0.5 + HALF_LOG_TAU).expand_as(self.mean).sum(-1)

    def kl_divergence(self, other: "Gaussian") -> Float[Tensor, "*batch"]:
        """KL(self ‖ other) in nats."""
        ratio = (2 * (self.log_std - other.log_std)).exp()  # of variances
        distance = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return (0.5 * (ratio + distance - 1) + other.log_std - self.log_std).sum(-1)


class SquashedGaussian(NamedTuple):
    """tanh of normals, in (-1, 1) (Haarnoja et al. 2018, arXiv:1801.01290, appendix C).

    `log_prob` takes the value before tanh, which is exact everywhere; `atanh` recovers it from an action.
    """

    mean: Float[Tensor, "*batch actions"]
    log_std: Float[Tensor, "*#batch actions"]

    noise = staticmethod(Gaussian.noise)

    def pre_tanh_sample(self, noise: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        """A sample before tanh."""
        return self.mean + self.log_std.exp() * noise

    def sample(self, noise: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        return self.pre_tanh_sample(noise).tanh()

    def mode(self) -> Float[Tensor, "*batch actions"]:
        """tanh of the mean: the median, and the greedy action."""
        return self.mean.tanh()

    @staticmethod
    def atanh(action: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        """artanh of actions, clamped to the largest value below 1 that the dtype can represent."""
        edge = 1 - torch.finfo(action.dtype).eps
        return action.clamp(-edge, edge).atanh()

    def log_prob(self, pre_tanh: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch"]:
        # log|d tanh(u)/du| = log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u))
        log_slope = 2 * (math.log(2) - pre_tanh - softplus(-2 * pre_tanh))
        return Gaussian(self.mean, self.log_std).log_prob(pre_tanh) - log_slope.sum(-1)
