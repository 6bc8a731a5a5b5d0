"""On-policy agents: from a rollout to the inputs of a policy, the values of next states, and minibatches."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.envs.rollouts import Rollout
from torchstone.envs.vector_env import VectorEnv
from torchstone.parts.rl import returns
from torchstone.parts.seeding import SeedStream, derive_seed


class PolicyInputs(NamedTuple):
    """The arguments of a network's `policy_and_value`, flattened for minibatches.

    A row is one step, (batch, …); of a recurrent policy it is one env with its steps in order,
    (envs, time, …).
    """

    observation: Tensor  # (batch, *shape) | (envs, time, *shape)
    action_mask: Bool[Tensor, "*rows actions"] | None = None  # valid actions, if the envs give a mask
    episode_start: Bool[Tensor, "envs time"] | None = None  # recurrent: steps that begin an episode
    recurrent_state: tuple[
        Tensor, ...
    ] = ()  # recurrent: the state before the first step, (envs, layers, units)


class RolloutBatch(NamedTuple):
    """A rollout, or a minibatch of it, as a loss takes it; rows as in `PolicyInputs`."""

    inputs: PolicyInputs
    action: Tensor  # (batch,) int64, or if continuous (batch, action_dim)
    log_prob: Float[Tensor, "*rows"]  # log π_old(a|s)
    value: Float[Tensor, "*rows"]  # V_old(s)
    advantage: Float[Tensor, "*rows"]  # Â
    returns: Float[Tensor, "*rows"]  # V^targ

    def select(self, index: Tensor) -> "RolloutBatch":
        """The rows at `index`."""
        observation, action_mask, episode_start, recurrent_state = self.inputs
        inputs = PolicyInputs(
            _select_rows(observation, index),
            None if action_mask is None else action_mask.index_select(0, index),
            None if episode_start is None else episode_start.index_select(0, index),
            tuple(each.index_select(0, index) for each in recurrent_state),
        )
        columns = (self.action, self.log_prob, self.value, self.advantage, self.returns)
        return RolloutBatch(inputs, *(column.index_select(0, index) for column in columns))

    def normalize_advantage(self) -> "RolloutBatch":
        """The batch with advantages of mean 0 and standard deviation 1; a single one stays as it is."""
        advantage = self.advantage
        if advantage.numel() < 2:
            return self
        return self._replace(advantage=(advantage - advantage.mean()) / (advantage.std() + 1e-8))


def _select_rows(column: Tensor, index: Tensor) -> Tensor:
    if column.dim() != 4:
        return column.index_select(0, index)
    # frames are stored channels last, where an image is one contiguous block of memory
    return column.movedim(1, 3).index_select(0, index).movedim(3, 1)


def make_separate_envs(recipe: Any) -> list[VectorEnv]:
    """As many envs as `make_envs` has, each by itself."""
    seeds = (derive_seed(recipe.seed, SeedStream.SEPARATE_ENVS, index) for index in range(recipe.num_envs))
    return [
        VectorEnv(
            recipe.data, seed=seed, wrappers=recipe.wrappers, max_episode_steps=recipe.max_episode_steps
        )
        for seed in seeds
    ]


def flatten_time(rollout: Rollout, column: Tensor) -> Tensor:
    """`(time, envs, …)` as rows: (time × envs, …), or of a recurrent policy (envs, time, …)."""
    return column.flatten(0, 1) if rollout.recurrent_state is None else column.transpose(0, 1)


def unflatten_time(rollout: Rollout, column: Tensor) -> Tensor:
    """Rows as `(time, envs, …)` again."""
    if rollout.recurrent_state is None:
        return column.unflatten(0, rollout.reward.shape)
    return column.transpose(0, 1)


def policy_inputs(rollout: Rollout) -> PolicyInputs:
    """The rollout's observations, masks and recurrent states as rows."""
    mask = None if rollout.action_mask is None else flatten_time(rollout, rollout.action_mask)
    observation = flatten_time(rollout, rollout.observation)
    if rollout.recurrent_state is None:
        return PolicyInputs(observation, mask)
    done = rollout.terminated | rollout.truncated
    # the state before the first step is reset already if an episode ended before it
    episode_start = torch.cat([torch.zeros_like(done[:1]), done[:-1]])
    recurrent_state = tuple(each.transpose(0, 1) for each in rollout.recurrent_state)
    return PolicyInputs(observation, mask, flatten_time(rollout, episode_start), recurrent_state)


@torch.no_grad()
def next_values(
    model: Any, rollout: Rollout, inputs: PolicyInputs, value: Float[Tensor, "time envs"]
) -> Float[Tensor, "time envs"]:
    """V of the state that each step led to (see `parts.rl.returns`).

    Args:
        inputs: `policy_inputs` of the rollout.
        value: V of the states that were acted in.
    """
    terminated, truncated = rollout.terminated, rollout.truncated
    if rollout.recurrent_state is None:
        bootstrap = model.value(torch.cat([rollout.last_observation, rollout.final_observations]))
    else:
        bootstrap = model.bootstrap_value(
            inputs.observation,
            inputs.episode_start,
            inputs.recurrent_state,
            rollout.last_observation,
            rollout.final_observations,
            truncated & ~terminated,
        )
    envs = len(rollout.last_observation)
    return returns.next_values(value, bootstrap[:envs], bootstrap[envs:], terminated, truncated)


@torch.no_grad()
def make_batch(model: Any, rollout: Rollout, gamma: float, gae_lambda: float) -> RolloutBatch:
    """The rollout with log π_old, V_old, Â and V^targ, as rows to draw minibatches from."""
    inputs = policy_inputs(rollout)
    if inputs.observation.dim() == 4:  # change the layout once, not in each minibatch
        channels_last = inputs.observation.contiguous(memory_format=torch.channels_last)
        inputs = inputs._replace(observation=channels_last)
    action = flatten_time(rollout, rollout.action)
    policy, value = model.policy_and_value(*inputs)
    values = unflatten_time(rollout, value)
    following = next_values(model, rollout, inputs, values)
    done = rollout.terminated | rollout.truncated
    # Â_t
    advantage = returns.gae(rollout.reward, values, following, done, gamma, gae_lambda)
    advantage = flatten_time(rollout, advantage)
    return RolloutBatch(inputs, action, policy.log_prob(action), value, advantage, advantage + value)
