"""Treatment of sepsis in intensive care: the tables of the package icu-sepsis, with an environment of them.

Choudhary, Gupta and Thomas, "ICU-Sepsis: a benchmark MDP built from real medical data", RLC 2024,
arXiv:2406.05646. 713 clusters of patients, death, survival and an absorbing state; 25 actions, five doses of
intravenous fluids by five of vasopressors; 1 for survival, γ = 1. Actions that clinicians took too rarely to
estimate are inadmissible: they lead where the mean of the admissible ones does.

Only the package's files are read. To import it would need the old Gym and pandas.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from torchstone.envs.backends import BackendStep
from torchstone.envs.make import gym
from torchstone.errors import BadInput
from torchstone.parts.optional_imports import package_folder
from torchstone.parts.rl.tabular_mdp import Policy, TabularMDP
from torchstone.parts.seeding import SeedStream, derive_generator

ENV_ID, MAX_STEPS = "ICU-Sepsis-v2", 500
LEVELS = 5  # doses of each drug; action = level of fluids · 5 + level of vasopressors
ABSORBING = 3  # the last states: death, survival, what follows both


class Sepsis(NamedTuple):
    """Tables, the clinicians' policy, and the mean SOFA score of each cluster of patients."""

    mdp: TabularMDP
    clinicians: Policy
    sofa: Float64[Tensor, " states"]


def find_tables() -> Path:
    """The folder of the package's tables.

    Raises:
        BadInput: it is not installed.
    """
    folder = package_folder("icu_sepsis")
    if folder is None:
        raise BadInput(f"{ENV_ID} needs the tables of icu-sepsis: pip install --no-deps icu-sepsis")
    return folder / "envs" / "assets"


@functools.cache
def load_sepsis(folder: Path | None = None) -> Sepsis:
    """The package's tables, read once.

    Raises:
        BadInput: it is not installed, or its files cannot be read.
    """
    folder = find_tables() if folder is None else folder
    try:
        with np.load(folder / "dynamics.npz") as tables:
            chance, start, clinicians, sofa = (
                tables[name] for name in ("tx_mat", "d_0", "expert_policy", "sofa_scores")
            )
            rows = chance.nonzero()
            probability, reward = chance[rows], tables["r_mat"][rows]
        lines = (folder / "admissible_actions.txt").read_text().splitlines()
        is_admissible = np.zeros(chance.shape[:2], bool)
        for state, line in enumerate(lines[1 : 1 + len(start)]):
            is_admissible[state, [int(word) for word in line.split()]] = True
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise BadInput(f"{folder} has no tables of icu-sepsis: {error}; install it anew") from error
    is_terminal = torch.arange(len(start)) >= len(start) - ABSORBING
    mdp = TabularMDP(
        *(torch.from_numpy(column) for column in (*rows, probability, reward, start)),
        is_terminal=is_terminal,
        is_admissible=torch.from_numpy(is_admissible),
    )
    return Sepsis(mdp, torch.from_numpy(clinicians), torch.from_numpy(sofa))


class _Draws(NamedTuple):
    """Where each state and action leads, for draws of one patient at a time."""

    next_state: np.ndarray
    cumulative: np.ndarray
    reward: np.ndarray
    offset: np.ndarray  # (states, actions + 1): rows of a state's action


@functools.cache
def _draws() -> _Draws:
    mdp = load_sepsis().mdp
    count = np.bincount(mdp.cell.numpy(), minlength=mdp.is_admissible.numel())
    last = count.cumsum()
    cumulative = mdp.probability.numpy().copy()
    for begin, end in zip(last - count, last, strict=True):
        np.cumsum(cumulative[begin:end], out=cumulative[begin:end])
        cumulative[begin:end] /= cumulative[end - 1]
    offset = np.concatenate([[0], last])
    return _Draws(mdp.next_state.numpy(), cumulative, mdp.reward.numpy(), offset)


def icu_sepsis(render_mode: str | None = None) -> Any:
    """One patient an episode: observations are the cluster's number, `info` has the admissible actions as
    `action_mask`. The same seed gives the package's own episodes.

    Raises:
        BadInput: icu-sepsis is not installed.
    """
    gymnasium, mdp, draws = gym(), load_sepsis().mdp, _draws()
    states, actions = mdp.shape
    begin = mdp.start.numpy().cumsum()
    begin = begin / begin[-1]
    masks, is_terminal = mdp.is_admissible.numpy(), mdp.is_terminal.numpy()

    class ICUSepsis(gymnasium.Env):
        metadata = {"render_modes": []}  # noqa: RUF012

        def __init__(self):
            self.observation_space = gymnasium.spaces.Discrete(states)
            self.action_space = gymnasium.spaces.Discrete(actions)
            self.state = 0

        def reset(self, *, seed: int | None = None, options: Any = None):
            super().reset(seed=seed)
            self.state = int(begin.searchsorted(self.np_random.random(), side="right"))
            return self.state, {"action_mask": masks[self.state]}

        def step(self, action):
            cell = self.state * actions + int(action)
            first, last = draws.offset[cell], draws.offset[cell + 1]
            row = first + draws.cumulative[first:last].searchsorted(self.np_random.random(), side="right")
            self.state = int(draws.next_state[row])
            ended = bool(is_terminal[self.state])
            return self.state, float(draws.reward[row]), ended, False, {"action_mask": masks[self.state]}

    return ICUSepsis()


class VectorICUSepsis:
    """A backend of `VectorEnv`: all patients at once, one draw of the tables a step. Observations are
    one-hot rows, as `flatten_observation` makes them."""

    def __init__(self, num_envs: int, max_episode_steps: int | None):
        spaces, self.mdp = gym().spaces, load_sepsis().mdp
        states, actions = self.mdp.shape
        self.observation_space = spaces.Box(0.0, 1.0, (states,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self.max_episode_steps = MAX_STEPS if max_episode_steps is None else max_episode_steps
        self.begin = self.mdp.start.cumsum(0) / self.mdp.start.sum()
        self.num_envs, self.seed, self.position = num_envs, 0, 0

    @property
    def episode_limit(self) -> int | None:
        return self.max_episode_steps or None

    def bound_episodes(self, steps: int) -> bool:
        """See `SyncVectorEnv`."""
        is_unlimited = not self.max_episode_steps
        self.max_episode_steps = steps if is_unlimited else self.max_episode_steps
        return is_unlimited

    def _uniform(self) -> Float64[Tensor, "2 envs"]:
        """Of a step: for the transition, and for the next patient where the episode ends."""
        generator = derive_generator(self.seed, SeedStream.EPISODES, self.position)
        self.position += 1
        return torch.rand(2, self.num_envs, generator=generator, dtype=torch.double)

    def _arrive(self, uniform: Float64[Tensor, " envs"]) -> Tensor:
        return torch.searchsorted(self.begin, uniform, right=True)

    def _observe(self, state: Tensor) -> np.ndarray:
        observation = np.zeros((self.num_envs, self.mdp.shape[0]), np.float32)
        observation[np.arange(self.num_envs), state.numpy()] = 1
        return observation

    @property
    def action_mask(self) -> np.ndarray:
        return self.mdp.is_admissible[self.state].numpy()

    def reset(self, seed: int) -> np.ndarray:
        self.seed, self.position = seed, 0
        self.state = self._arrive(self._uniform()[1])
        self.lengths = torch.zeros(self.num_envs, dtype=torch.long)
        self.episode_returns = torch.zeros(self.num_envs, dtype=torch.double)
        return self._observe(self.state)

    def step(self, actions: np.ndarray) -> BackendStep:
        uniform = self._uniform()
        following, reward = self.mdp.sample_next(self.state, torch.from_numpy(actions).long(), uniform[0])
        self.lengths, self.episode_returns = self.lengths + 1, self.episode_returns + reward
        terminated = self.mdp.is_terminal[following]
        truncated = (self.lengths == self.max_episode_steps) & ~terminated
        next_observation, done = self._observe(following), terminated | truncated
        observation, returns = next_observation, self.episode_returns[done].tolist()
        if returns:
            following = torch.where(done, self._arrive(uniform[1]), following)
            self.lengths = self.lengths.masked_fill(done, 0)
            self.episode_returns = self.episode_returns.masked_fill(done, 0.0)
            observation = self._observe(following)
        self.state = following
        ends = terminated.numpy(), truncated.numpy()
        return BackendStep(next_observation, reward.float().numpy(), *ends, observation, returns)

    def state_dict(self) -> dict[str, Any]:
        tensors = {"state": self.state, "lengths": self.lengths, "episode_returns": self.episode_returns}
        return {"position": self.position, **{name: each.clone() for name, each in tensors.items()}}

    def load_state_dict(self, state: dict[str, Any], observation: np.ndarray) -> None:
        self.position, self.state = state["position"], state["state"].clone()
        self.lengths, self.episode_returns = state["lengths"].clone(), state["episode_returns"].clone()

    def close(self) -> None:
        pass
