"""Distributions over actions, as what a network says and noise drawn beforehand.

Each has `noise(shape, generator)`, on the CPU, and `draw(noise)`: sampling is a function of noise, so that
a whole rollout's can be drawn at once and the same seed gives the same actions on every device.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def masked(
    logits: Float[Tensor, "*batch actions"], mask: Bool[Tensor, "*batch actions"]
) -> Float[Tensor, "*batch actions"]:
    """Logits that leave no chance to actions where `mask` is False; finite, so that entropy and gradient
    stay so (Huang and Ontañón 2022, arXiv:2006.14171)."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


class Categorical(NamedTuple):
    """One of n actions, p = softmax(logits)."""

    logits: Float[Tensor, "*batch actions"]

    @staticmethod
    def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise, -log E with E exponential: argmax(logits + noise) is a draw (Maddison et al. 2014)."""
        return torch.empty(shape).exponential_(generator=generator).log_().neg_()

    def draw(self, noise: Float[Tensor, "*batch actions"]) -> Int64[Tensor, "*batch"]:
        return (self.logits + noise).argmax(-1)

    def mode(self) -> Int64[Tensor, "*batch"]:
        return self.logits.argmax(-1)

    def log_prob(self, action: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.logits.log_softmax(-1).gather(-1, action[..., None])[..., 0]

    def entropy(self) -> Float[Tensor, "*batch"]:
        said = self.logits.log_softmax(-1)
        return -(said.exp() * said).sum(-1)


class Gaussian(NamedTuple):
    """Independent normals; their draws may lie outside the world's bounds, which then clips them."""

    mean: Float[Tensor, "*batch actions"]
    log_std: Float[Tensor, "*#batch actions"]

    @staticmethod
    def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator)

    def draw(self, noise: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Float[Tensor, "*batch actions"]:
        return self.mean

    def log_prob(self, action: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch"]:
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z.square() - self.log_std - HALF_LOG_TAU).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        return (self.log_std + 0.5 + HALF_LOG_TAU).expand_as(self.mean).sum(-1)


class SquashedGaussian(NamedTuple):
    """tanh of normals, in (-1, 1) (Haarnoja et al. 2018, arXiv:1801.01290, appendix C).

    `log_prob` takes the value before tanh, which is exact everywhere; `invert` gives it from an action.
    """

    mean: Float[Tensor, "*batch actions"]
    log_std: Float[Tensor, "*#batch actions"]

    noise = staticmethod(Gaussian.noise)

    def raw(self, noise: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        """A draw before tanh."""
        return self.mean + self.log_std.exp() * noise

    def draw(self, noise: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        return self.raw(noise).tanh()

    def mode(self) -> Float[Tensor, "*batch actions"]:
        """tanh of the mean: the median, and what is played greedily."""
        return self.mean.tanh()

    @staticmethod
    def invert(action: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch actions"]:
        """artanh, of actions kept inside what the type can tell from ±1."""
        edge = 1 - torch.finfo(action.dtype).eps
        return action.clamp(-edge, edge).atanh()

    def log_prob(self, raw: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch"]:
        # log|d tanh(u)/du| = log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u))
        slope = 2 * (math.log(2) - raw - softplus(-2 * raw))
        return Gaussian(self.mean, self.log_std).log_prob(raw) - slope.sum(-1)
