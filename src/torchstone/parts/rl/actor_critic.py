"""A policy and a guess of what a state is worth: two small networks, or two heads on one that sees."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from torchstone.parts.rl.distributions import Categorical, Gaussian, masked
from torchstone.parts.rl.running_mean_std import Running

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
SEEN = {"nature": 512, "small": 256}  # numbers that a frame is made into

Mask = Bool[Tensor, "*batch actions"] | None  # which actions are valid


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> nn.Module:
    """Weights orthogonal times `gain`, biases 0 (Saxe et al. 2014; Engstrom et al. 2020 on why it matters)."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def dense(widths: Sequence[int], gain: float, activation: str = "tanh") -> nn.Sequential:
    """Linear layers of these widths with an activation between; the last one begins with `gain`."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [orthogonal(nn.Linear(inputs, outputs), math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, orthogonal(nn.Linear(widths[-2], widths[-1]), gain))


def sight(channels: int, eyes: str = "nature") -> nn.Sequential:
    """Frames of 84 × 84 to `SEEN[eyes]` numbers: the network of Mnih et al. 2015 (`nature`), or the smaller
    one of 2013 that A3C has too (`small`), without the last layer."""
    layers = [nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3)]
    left = 64 * 7 * 7
    if eyes == "small":
        layers, left = [nn.Conv2d(channels, 16, 8, 4), nn.Conv2d(16, 32, 4, 2)], 32 * 9 * 9
    seen = [m for layer in layers for m in (orthogonal(layer, math.sqrt(2)), nn.ReLU())]
    last = orthogonal(nn.Linear(left, SEEN[eyes]), math.sqrt(2))
    return nn.Sequential(*seen, nn.Flatten(), last, nn.ReLU())


def shown(
    frames: UInt8[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """Frames between 0 and 1, laid out as the CPU's kernels like them: channels last."""
    return frames.contiguous(memory_format=torch.channels_last) / 255.0


def said(numbers: Tensor, log_std: Tensor | None, mask: Tensor | None) -> Categorical | Gaussian:
    """The distribution that a policy's last layer speaks of."""
    if log_std is not None:
        return Gaussian(numbers, log_std)
    return Categorical(numbers if mask is None else masked(numbers, mask))


class ActorCritic(nn.Module):
    """Policy and value of observations: `forward` gives logits (or means and log deviations) and values.

    Args:
        observations: their shape; three numbers are frames, which share one network.
        actions: how many to choose among, or with `continuous` how many numbers to choose.
        hidden: widths of the layers of each of the two networks.
        scaled: observations are normalised by what was seen of them (`scale.take`).
        deviation: log standard deviation that a continuous policy begins with.
        eyes: what frames are seen with (`sight`).
    """

    masks = True  # asked with what is valid, where worlds say so

    def __init__(
        self,
        observations: Sequence[int],
        actions: int,
        *,
        continuous: bool = False,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        scaled: bool = False,
        deviation: float = 0.0,
        eyes: str = "nature",
    ):
        super().__init__()
        self.pixels, self.actions = len(observations) == 3, actions
        self.body = sight(observations[0], eyes) if self.pixels else nn.Flatten()
        inner = (SEEN[eyes],) if self.pixels else (math.prod(observations), *hidden)
        self.actor = dense((*inner, actions), 0.01, activation)
        self.critic = dense((*inner, 1), 1.0, activation)
        self.scale = Running(tuple(observations)) if scaled else None
        self.log_std = nn.Parameter(torch.full((actions,), deviation)) if continuous else None
        self.kind = Gaussian if continuous else Categorical

    def see(self, x: Float[Tensor, "batch *shape"] | UInt8[Tensor, "batch *shape"]) -> Tensor:
        """What both heads are given."""
        if self.pixels:
            x = shown(x)
        return self.body(x if self.scale is None else self.scale(x))

    def policy(self, observation: Tensor, mask: Mask = None) -> Categorical | Gaussian:
        """The distribution over actions."""
        return said(self.actor(self.see(observation)), self.log_std, mask)

    def value(self, observation: Tensor) -> Float[Tensor, " batch"]:
        return self.critic(self.see(observation))[..., 0]

    def both(
        self, observation: Tensor, mask: Mask = None
    ) -> tuple[Categorical | Gaussian, Float[Tensor, " batch"]]:
        """Policy and value, from one look."""
        seen = self.see(observation)
        return said(self.actor(seen), self.log_std, mask), self.critic(seen)[..., 0]

    def greedy(self, observation: Tensor, mask: Mask = None) -> Tensor:
        """The likeliest actions."""
        return self.policy(observation, mask).mode()

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        policy, value = self.both(observation)
        return (*policy, value)
