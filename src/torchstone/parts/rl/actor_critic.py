"""Actor-critic networks: a policy and a state value, as two small networks or as two heads on one CNN."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.rl.distributions import Categorical, Gaussian, mask_logits
from torchstone.parts.rl.observations import BYTE, scale_observations
from torchstone.parts.rl.running_mean_std import RunningMeanStd

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
FEATURE_DIM = {"nature": 512, "small": 256}  # outputs of each image encoder

ActionMask = Bool[Tensor, "*batch actions"] | None  # which actions are valid


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> nn.Module:
    """Orthogonal weights times `gain`, zero biases (Saxe et al. 2014; Engstrom et al. 2020 on why)."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(widths: Sequence[int], gain: float, activation: str = "tanh") -> nn.Sequential:
    """Linear layers of these widths with activations between; the last one is initialized with `gain`."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [orthogonal(nn.Linear(inputs, outputs), math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, orthogonal(nn.Linear(widths[-2], widths[-1]), gain))


def image_encoder(channels: int, encoder: str = "nature") -> nn.Sequential:
    """CNN from 84 × 84 frames to `FEATURE_DIM[encoder]` features, without the output layer.

    `nature` is the network of Mnih et al. 2015; `small` that of Mnih et al. 2013, which A3C uses too.
    """
    layers = [nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3)]
    flat_dim = 64 * 7 * 7
    if encoder == "small":
        layers, flat_dim = [nn.Conv2d(channels, 16, 8, 4), nn.Conv2d(16, 32, 4, 2)], 32 * 9 * 9
    convolutions = [m for layer in layers for m in (orthogonal(layer, math.sqrt(2)), nn.ReLU())]
    last = orthogonal(nn.Linear(flat_dim, FEATURE_DIM[encoder]), math.sqrt(2))
    return nn.Sequential(*convolutions, nn.Flatten(), last, nn.ReLU())


def distribution(
    outputs: Tensor, log_std: Tensor | None, action_mask: Tensor | None
) -> Categorical | Gaussian:
    """The action distribution that a policy's last layer parametrizes."""
    if log_std is not None:
        return Gaussian(outputs, log_std)
    return Categorical(outputs if action_mask is None else mask_logits(outputs, action_mask))


class ActorCritic(nn.Module):
    """Policy and value of observations: `forward` gives logits (or means and log deviations) and values.

    Args:
        observation_shape: three numbers are frames, for which both heads share one CNN.
        num_actions: how many to choose among, or with `continuous` the dimension of an action.
        hidden: widths of the hidden layers of each of the two networks.
        normalize: normalize observations by running statistics (`normalizer.update`).
        init_log_std: initial log standard deviation of a continuous policy.
        encoder: the CNN for frames, see `image_encoder`.
        observation_scale: what frames and bytes are divided by, see `parts.rl.observations`.
    """

    uses_masks = True  # takes an action mask where the envs give one

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        continuous: bool = False,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        normalize: bool = False,
        init_log_std: float = 0.0,
        encoder: str = "nature",
        observation_scale: float = BYTE,
    ):
        super().__init__()
        self.is_image, self.num_actions = len(observation_shape) == 3, num_actions
        self.observation_scale = observation_scale
        self.body = image_encoder(observation_shape[0], encoder) if self.is_image else nn.Flatten()
        inner = (FEATURE_DIM[encoder],) if self.is_image else (math.prod(observation_shape), *hidden)
        self.actor = mlp((*inner, num_actions), 0.01, activation)
        self.critic = mlp((*inner, 1), 1.0, activation)
        self.normalizer = RunningMeanStd(tuple(observation_shape)) if normalize else None
        self.log_std = nn.Parameter(torch.full((num_actions,), init_log_std)) if continuous else None
        self.distribution = Gaussian if continuous else Categorical
        accept_old_keys(self, {"scale.": "normalizer."})

    def features(self, x: Float[Tensor, "batch *shape"] | UInt8[Tensor, "batch *shape"]) -> Tensor:
        """The input of both heads."""
        x = scale_observations(x, self.observation_scale)
        return self.body(x if self.normalizer is None else self.normalizer(x))

    def update_normalizer(self, x: Float[Tensor, "batch *shape"] | UInt8[Tensor, "batch *shape"]) -> None:
        """Merge a batch into the running statistics, scaled as `features` scales it."""
        if self.normalizer is not None:
            self.normalizer.update(scale_observations(x, self.observation_scale))

    def policy(self, observation: Tensor, action_mask: ActionMask = None) -> Categorical | Gaussian:
        """The action distribution π(·|s)."""
        return distribution(self.actor(self.features(observation)), self.log_std, action_mask)

    def value(self, observation: Tensor) -> Float[Tensor, " batch"]:
        """V(s)."""
        return self.critic(self.features(observation))[..., 0]

    def policy_and_value(
        self,
        observation: Tensor,
        action_mask: ActionMask = None,
        episode_start: Tensor | None = None,
        recurrent_state: tuple = (),
    ) -> tuple[Categorical | Gaussian, Float[Tensor, " batch"]]:
        """π(·|s) and V(s) from one pass; the last two arguments are a recurrent policy's and not used."""
        features = self.features(observation)
        policy = distribution(self.actor(features), self.log_std, action_mask)
        return policy, self.critic(features)[..., 0]

    def greedy(self, observation: Tensor, action_mask: ActionMask = None) -> Tensor:
        """The most likely actions."""
        return self.policy(observation, action_mask).mode()

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        policy, value = self.policy_and_value(observation)
        return (*policy, value)
