"""Whole episodes of several agents: collected under a policy, and kept for replay.

Every batch is of episodes from their beginning to their end. Where each begins follows from the run's seed
and the episode's number, so that a checkpoint between two batches needs no state of a simulator.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.envs.team_envs import TeamEnvs
from torchstone.parts.seeding import SeedStream, derive_generator, derive_seed


class TeamEpisodes(NamedTuple):
    """Episodes side by side, padded in time. `present` says which agents acted at a step; what stands where
    it is False, but for the observation after an agent's last step, is 0."""

    observation: Float[Tensor, "episode time_and_last agent feature"]
    action: Int64[Tensor, "episode time agent"]
    reward: Float[Tensor, "episode time agent"]
    terminated: Bool[Tensor, "episode time agent"]
    truncated: Bool[Tensor, "episode time agent"]
    present: Bool[Tensor, "episode time agent"]

    def select(self, index: Tensor) -> "TeamEpisodes":
        """The episodes of these numbers."""
        return TeamEpisodes(*(column[index] for column in self))

    def to(self, device: Any) -> "TeamEpisodes":
        return TeamEpisodes(*(column.to(device) for column in self))

    @property
    def continues(self) -> Bool[Tensor, "episode time agent"]:
        """Whether the state after a step has a value for an agent: it acts again, or was cut off there."""
        following = torch.cat([self.present[:, 1:], torch.zeros_like(self.present[:, :1])], 1)
        return following | (self.present & self.truncated & ~self.terminated)

    @property
    def state(self) -> Float[Tensor, "episode time_and_last state"]:
        """What a central network sees: the observations of all agents, and who is there."""
        last = torch.zeros_like(self.present[:, :1])
        is_there = torch.cat([self.present, last], 1) | torch.cat([last, self.continues], 1)
        return torch.cat([self.observation.flatten(2), is_there.to(self.observation.dtype)], 2)

    @property
    def returns(self) -> Float[Tensor, "episode agent"]:
        return self.reward.sum(1)


Act = Callable[[int, Tensor, Tensor], Tensor]  # step, observation, present -> actions


@torch.no_grad()
def play_episodes(envs: TeamEnvs, act: Act, seeds: Sequence[int], max_steps: int) -> TeamEpisodes:
    """One episode from each seed. What is not over after `max_steps` is cut off.

    Args:
        act: gives `(episode, agent)` int64; those of agents that are not present are ignored.
    """
    observation, present = envs.reset(seeds)
    observations, rows = [observation], []
    for t in range(max_steps):
        if not bool(present.any()):
            break
        action = act(t, observation, present).masked_fill(~present, 0)
        step = envs.step(action)
        truncated = step.truncated & present
        following = step.present & ~(step.terminated | step.truncated)
        if t == max_steps - 1:
            truncated = truncated | (following & present)
            following = torch.zeros_like(following)
        rows.append(
            (action, step.reward.masked_fill(~present, 0.0), step.terminated & present, truncated, present)
        )
        observation, present = step.observation, following
        observations.append(observation)
    return TeamEpisodes(torch.stack(observations, 1), *(torch.stack(c, 1) for c in zip(*rows, strict=True)))


class TeamBatch(NamedTuple):
    """What an update learns from."""

    episodes: TeamEpisodes
    number: int  # batches before this one
    env_steps: int  # steps of all episodes so far, these included
    returns: list[float]  # of the episodes that were just played: the team's, a sum over agents


class EpisodeStream:
    """Endless batches of `num_envs` fresh episodes, or of as many from a replay buffer.

    Args:
        policy: (generator, environment steps so far) -> `Act`; called before each batch.
        buffer_size: episodes that are kept to sample from; 0 for none: a batch is what was just played.
        batch_size: episodes of a batch from the buffer, times `gradient_steps`.
    """

    def __init__(
        self,
        envs: TeamEnvs,
        policy: Callable[[torch.Generator, int], Act],
        *,
        num_envs: int,
        max_steps: int,
        seed: int,
        buffer_size: int = 0,
        batch_size: int = 0,
    ):
        self.envs, self.policy, self.num_envs, self.max_steps = envs, policy, num_envs, max_steps
        self.seed, self.buffer_size, self.batch_size = seed, buffer_size, batch_size
        self.position, self.env_steps = 0, 0
        self.buffer: TeamEpisodes | None = None
        self.is_exact = True

    def __iter__(self) -> "EpisodeStream":
        return self

    def __next__(self) -> TeamBatch:
        fresh = self._play()
        returns = fresh.returns.sum(1).tolist()
        if not self.buffer_size:
            return TeamBatch(fresh, self.position - 1, self.env_steps, returns)
        self._store(fresh)
        while (held := self.num_held) < min(self.batch_size, self.buffer_size):
            self._store(self._play())
        generator = derive_generator(self.seed, SeedStream.REPLAY_DRAWS, self.position)
        index = torch.randperm(held, generator=generator)[: self.batch_size]
        assert self.buffer is not None
        return TeamBatch(self.buffer.select(index), self.position - 1, self.env_steps, returns)

    @torch.no_grad()
    def _play(self) -> TeamEpisodes:
        first = self.position * self.num_envs
        numbers = range(first, first + self.num_envs)
        seeds = [derive_seed(self.seed, SeedStream.EPISODES, number) % 2**32 for number in numbers]
        generator = derive_generator(self.seed, SeedStream.ROLLOUT_ACTIONS, self.position)
        act = self.policy(generator, self.env_steps)
        episodes = play_episodes(self.envs, act, seeds, self.max_steps)
        self.position += 1
        self.env_steps += int(episodes.present.any(2).sum())
        return episodes

    @property
    def num_held(self) -> int:
        return min(self.position * self.num_envs, self.buffer_size)

    def _store(self, fresh: TeamEpisodes) -> None:
        if self.buffer is None:  # zeros: a checkpoint holds all of it
            self.buffer = TeamEpisodes(
                *(
                    column.new_zeros(
                        self.buffer_size, self.max_steps + (name == "observation"), *column.shape[2:]
                    )
                    for name, column in fresh._asdict().items()
                )
            )
        first = (self.position - 1) * self.num_envs
        index = torch.arange(first, first + self.num_envs) % self.buffer_size
        for column, new in zip(self.buffer, fresh, strict=True):
            column[index] = 0
            column[index, : new.shape[1]] = new

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"position": self.position, "env_steps": self.env_steps}
        if self.buffer is not None:
            state["buffer"] = [column[: self.num_held].clone() for column in self.buffer]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.env_steps = state["position"], state["env_steps"]
        self.buffer = None
        if "buffer" in state:
            columns = []
            for held in state["buffer"]:
                column = held.new_zeros(self.buffer_size, *held.shape[1:])
                column[: len(held)] = held
                columns.append(column)
            self.buffer = TeamEpisodes(*columns)
