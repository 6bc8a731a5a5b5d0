"""Recurrent actor-critic: an LSTM between the encoder and the heads.

As in A3C's LSTM agent (Mnih et al. 2016, section 5.1): one network encodes the observation, one recurrent
layer integrates what it gave since the episode began, and policy and value are linear in its output.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.recurrent.layers import Cell, Recurrent, State
from torchstone.parts.rl.actor_critic import (
    ACTIVATIONS,
    FEATURE_DIM,
    ActionMask,
    distribution,
    image_encoder,
    mlp,
    orthogonal,
)
from torchstone.parts.rl.distributions import Categorical, Gaussian
from torchstone.parts.rl.observations import BYTE, scale_observations
from torchstone.parts.rl.running_mean_std import RunningMeanStd

Observations = Float[Tensor, "envs *shape"] | UInt8[Tensor, "envs *shape"]


def lstm_step(x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """The next h and c of an LSTM; `x` is W x + b of the four gates already."""
    h, c = state
    i, f, g, o = (x + F.linear(h, weight, bias)).chunk(4, -1)
    # c = σ(f) ∘ c + σ(i) ∘ tanh(g)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    # h = σ(o) ∘ tanh(c)
    return o.sigmoid() * c.tanh(), c


LSTM = Cell("lstm", 4, lstm_step, torch.lstm, states=2)


class RecurrentActorCritic(nn.Module):
    """Policy and value of sequences, one env per row; `forward` reads them from their beginnings.

    Args:
        hidden: widths of the layers before the LSTM, which is as wide as the last of them; frames have a
            CNN instead (`actor_critic.image_encoder`).
        others: as `ActorCritic`'s.
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
        cell: Cell = LSTM,
        observation_scale: float = BYTE,
    ):
        super().__init__()
        self.is_image, self.num_actions = len(observation_shape) == 3, num_actions
        self.observation_scale = observation_scale
        if self.is_image:
            self.body, width = image_encoder(observation_shape[0], encoder), FEATURE_DIM[encoder]
        else:
            layers = mlp((math.prod(observation_shape), *hidden), math.sqrt(2), activation)
            self.body = nn.Sequential(nn.Flatten(), layers, ACTIVATIONS[activation]())
            width = hidden[-1]
        self.rnn = Recurrent(cell, width, width)
        for name, parameter in self.rnn.named_parameters():
            nn.init.zeros_(parameter) if "bias" in name else nn.init.orthogonal_(parameter)
        self.actor = orthogonal(nn.Linear(width, num_actions), 0.01)
        self.critic = orthogonal(nn.Linear(width, 1), 1.0)
        self.normalizer = RunningMeanStd(tuple(observation_shape)) if normalize else None
        self.log_std = nn.Parameter(torch.full((num_actions,), init_log_std)) if continuous else None
        self.distribution = Gaussian if continuous else Categorical
        accept_old_keys(self, {"memory.": "rnn.", "scale.": "normalizer."})

    def features(
        self, x: Float[Tensor, "*rows_shape"] | UInt8[Tensor, "*rows_shape"], batch_dims: int = 1
    ) -> Float[Tensor, "*rows width"]:
        """The input of the LSTM; the first `batch_dims` dimensions are not of an observation."""
        flat = scale_observations(x.flatten(0, batch_dims - 1), self.observation_scale)
        flat = self.body(flat if self.normalizer is None else self.normalizer(flat))
        return flat.unflatten(0, x.shape[:batch_dims])

    def update_normalizer(self, x: Observations) -> None:
        """Merge a batch into the running statistics, scaled as `features` scales it."""
        if self.normalizer is not None:
            self.normalizer.update(scale_observations(x, self.observation_scale))

    def initial_state(self, num_envs: int) -> State:
        """The recurrent state at the start of an episode: zeros (layers, envs, units)."""
        return self.rnn.empty(next(self.parameters()).new_zeros(num_envs))

    def policy(
        self, observation: Observations, action_mask: ActionMask, state: State
    ) -> tuple[Categorical | Gaussian, State]:
        """The action distribution at one time step, and the recurrent state after it."""
        output, state = self.rnn(self.features(observation)[:, None], None, state)
        return distribution(self.actor(output[:, 0]), self.log_std, action_mask), state

    def greedy(self, observation: Tensor, action_mask: ActionMask, state: State) -> tuple[Tensor, State]:
        """The most likely actions, and the recurrent state after them."""
        policy, state = self.policy(observation, action_mask, state)
        return policy.mode(), state

    def policy_and_value(
        self,
        observation: Float[Tensor, "envs time *shape"] | UInt8[Tensor, "envs time *shape"],
        action_mask: Bool[Tensor, "envs time actions"] | None = None,
        episode_start: Bool[Tensor, "envs time"] | None = None,
        recurrent_state: tuple[Float[Tensor, "envs layers units"], ...] = (),
    ) -> tuple[Categorical | Gaussian, Float[Tensor, "envs time"]]:
        """Policy and value at every time step.

        Args:
            episode_start: steps that begin an episode; the recurrent state is reset there.
            recurrent_state: the state before the first step, by default `initial_state`.
        """
        envs, time = observation.shape[:2]
        if episode_start is None:
            episode_start = torch.zeros(envs, time, dtype=torch.bool, device=observation.device)
        if not recurrent_state:
            recurrent_state = tuple(each.transpose(0, 1) for each in self.initial_state(envs))
        output, _, _ = self._run_segments(self.features(observation, 2), episode_start, recurrent_state)
        return distribution(self.actor(output), self.log_std, action_mask), self.critic(output)[..., 0]

    def bootstrap_value(
        self,
        observation: Float[Tensor, "envs time *shape"] | UInt8[Tensor, "envs time *shape"],
        episode_start: Bool[Tensor, "envs time"],
        recurrent_state: tuple[Float[Tensor, "envs layers units"], ...],
        last_observation: Observations,
        final_observations: Float[Tensor, "truncations *shape"] | UInt8[Tensor, "truncations *shape"],
        is_truncated: Bool[Tensor, "time envs"],
    ) -> Float[Tensor, " envs_and_truncations"]:
        """Values of the states after the last step, as if no episode ended there, and of the states in which
        episodes were truncated, each with the recurrent state of its episode."""
        _, ends, segment = self._run_segments(self.features(observation, 2), episode_start, recurrent_state)
        time, env = is_truncated.nonzero().unbind(1)
        source = torch.cat([segment[:, -1], segment[env, time]])
        features = self.features(torch.cat([last_observation, final_observations]))[:, None]
        output, _ = self.rnn(features, None, tuple(end[:, source] for end in ends))
        return self.critic(output)[:, 0, 0]

    def _run_segments(
        self,
        x: Float[Tensor, "envs time width"],
        episode_start: Bool[Tensor, "envs time"],
        recurrent_state: Sequence[Tensor],
    ) -> tuple[Float[Tensor, "envs time width"], State, Int64[Tensor, "envs time"]]:
        """Outputs at every step; the state at the end of each segment (steps of one env in one episode); and
        the segment that each step is in.

        Segments are stacked as rows, shorter ones padded, so that one kernel call reads all of them.
        """
        envs, time, width = x.shape
        is_first = episode_start.clone()
        is_first[:, 0] = True
        firsts = is_first.flatten().nonzero()[:, 0]
        total = firsts.new_tensor([envs * time])
        lengths = torch.cat([firsts, total]).diff()
        segment = is_first.flatten().cumsum(0) - 1
        position = torch.arange(envs * time, device=x.device) - firsts[segment]
        stacked = x.new_zeros(len(firsts), int(lengths.max()), width)
        stacked = stacked.index_put((segment, position), x.flatten(0, 1))
        is_fresh = episode_start.flatten()[firsts][:, None]
        state = tuple(
            each[firsts // time].transpose(0, 1).masked_fill(is_fresh, 0.0) for each in recurrent_state
        )
        output, ends = self.rnn(stacked, lengths, state)
        return output[segment, position].view_as(x), ends, segment.view(envs, time)

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        policy, value = self.policy_and_value(observation)
        return (*policy, value)
