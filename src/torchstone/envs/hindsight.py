"""Hindsight experience replay (Andrychowicz et al. 2017, arXiv:1707.01495, section 3.3, strategy "future").

A transition is replayed as if its episode had been after another goal: one that a later state of the same
episode attained. Of k + 1 transitions k are relabelled so, with a reward for the new goal; one keeps its own.

    j ~ U{t, …, T-1},   g' = achieved(s_{j+1}),   r' = r(achieved(s_{t+1}), g')

Relabelling is done when a batch is sampled, so that the replay buffer holds what was played, and a transition
meets new goals each time. Of an episode that is under way, T is the newest step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.envs.goals import GoalSlices
from torchstone.envs.replay_buffer import RUNNING, ReplayBuffer, Transitions
from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput, first_line

ComputeReward = Callable[[np.ndarray, np.ndarray, dict], np.ndarray]  # achieved, desired, info


class HindsightReplay:
    """Relabels sampled one-step transitions. It has no state: goals follow from the buffer and the generator.

    Whether a transition terminated is not asked anew: what ended an episode ends it for every goal.

    Args:
        buffer: of observations that are vectors of floats, with `keep_terminal`.
        k: relabelled transitions for one that is not; their share is k / (k + 1).
    """

    def __init__(self, buffer: ReplayBuffer, goals: GoalSlices, compute_reward: ComputeReward, k: int):
        self.buffer, self.goals, self.compute_reward, self.k = buffer, goals, compute_reward, k

    def __call__(
        self, index: Int64[Tensor, " batch"], transitions: Transitions, generator: torch.Generator
    ) -> Transitions:
        """Some of these transitions with other goals and rewards.

        Args:
            index: the rows of the buffer that they are of.
        """
        chance, which = torch.rand(2, len(index), generator=generator, dtype=torch.float64).to(index.device)
        (relabelled,) = (chance < self.k / (self.k + 1)).nonzero(as_tuple=True)
        rows = index[relabelled]
        later = (which[relabelled] * (self.remaining_steps(rows) + 1)).long()
        goal = self.attained(rows + later * self.buffer.num_envs)
        observation, next_observation = transitions.observation.clone(), transitions.next_observation.clone()
        observation[relabelled, self.goals.desired] = goal
        next_observation[relabelled, self.goals.desired] = goal
        reward = transitions.reward.clone()
        reward[relabelled] = self.reward(next_observation[relabelled, self.goals.achieved], goal)
        return transitions._replace(observation=observation, next_observation=next_observation, reward=reward)

    def attained(self, rows: Int64[Tensor, " batch"]) -> Float[Tensor, "batch goal"]:
        """What the states attained that the steps at these rows led to."""
        return self.buffer.next_frames(rows % self.buffer.num_rows)[:, self.goals.achieved]

    def remaining_steps(self, rows: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Steps of the episode after those at these rows, as far as they are known."""
        buffer = self.buffer
        count = len(buffer) // buffer.num_envs
        oldest = buffer.oldest // buffer.num_envs
        slots = (oldest + torch.arange(count, device=rows.device)) % buffer.slots
        is_end = buffer.end.view(buffer.slots, buffer.num_envs)[slots] != RUNNING
        is_end[-1] = True
        # ends of all episodes, env by env, oldest first
        ends = is_end.T.flatten().nonzero()[:, 0]
        age = (rows // buffer.num_envs - oldest) % buffer.slots
        position = rows % buffer.num_envs * count + age
        return ends[torch.searchsorted(ends, position)] - position

    def reward(
        self, achieved: Float[Tensor, "batch goal"], desired: Float[Tensor, "batch goal"]
    ) -> Float[Tensor, " batch"]:
        """The environment's reward for these goals."""
        reward = self.compute_reward(achieved.cpu().numpy(), desired.cpu().numpy(), {})
        return torch.as_tensor(np.asarray(reward)).to(achieved)


def make_hindsight(envs: VectorEnv, buffer: ReplayBuffer, k: int) -> HindsightReplay:
    """Hindsight replay of a goal environment.

    Raises:
        BadInput: an environment without goals, or whose reward cannot be computed for others.
    """
    example = "such as Reacher-v5 with --wrappers GoalReacher, or gymnasium_robotics:PointMaze_UMaze-v3"
    goals = envs.goals
    if goals is None:
        raise BadInput(f"{envs.spec} has no goals: hindsight replay needs a goal environment, {example}")
    env: Any = envs.backend.envs[0]
    try:
        compute_reward = env.get_wrapper_attr("compute_reward")
    except AttributeError as error:
        raise BadInput(
            f"{envs.spec} cannot say what a step earns for another goal: it has no compute_reward, which "
            f"hindsight replay needs; a sparse reward has, {example}"
        ) from error
    achieved = envs.observation[:1, goals.achieved].repeat(2, 1).numpy()
    try:
        shape = np.shape(compute_reward(achieved, achieved, {}))
    except Exception as error:  # an environment may raise anything
        raise BadInput(f"{envs.spec}: compute_reward of two goals fails: {first_line(error)}") from error
    if shape != (2,):
        raise BadInput(
            f"{envs.spec}: compute_reward of two goals gives {shape}, where two rewards are needed"
        )
    return HindsightReplay(buffer, goals, compute_reward, k)
