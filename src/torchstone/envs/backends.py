"""Backends of `VectorEnv`: a Python loop over any Gymnasium environment, or its own vectorized form.

What they share is in `torchstone.envs.vector_env`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from torchstone.envs.env_state import restore, snapshot
from torchstone.envs.make import gym, make_env, reward_number
from torchstone.envs.wrappers import ACTION_MASK, valid_actions
from torchstone.errors import BadInput
from torchstone.parts.old_keys import with_new_names


class BackendStep(NamedTuple):
    """One step of all envs; `observation` is `next_observation`, except in envs that were reset."""

    next_observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    observation: np.ndarray
    returns: list[float]


def is_scaled(space: Any) -> bool:
    """Whether networks divide observations of a Box space by its bounds: frames of any type, and bytes."""
    return len(space.shape) == 3 or space.dtype == np.uint8


class SyncVectorEnv:
    """`num_envs` environments of any kind, stepped one after the other."""

    def __init__(
        self, spec: str, num_envs: int, wrappers: Sequence[str], max_episode_steps: int | None, render: bool
    ):
        kwargs = {"render_mode": "rgb_array"} if render else {}
        pairs = [make_env(spec, wrappers, max_episode_steps, **kwargs) for _ in range(num_envs)]
        self.spec, self.envs, self.max_episode_steps = spec, [env for env, _ in pairs], pairs[0][1]
        first = self.envs[0]
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.is_byte = self.observation_space.dtype == np.uint8
        self.dtype = np.dtype(np.uint8 if self.is_byte else np.float32)
        self.is_scaled = is_scaled(self.observation_space)
        self.shape = self.observation_space.shape
        self.episode_lengths, self.episode_returns = [0] * num_envs, [0.0] * num_envs
        self.return_recorders = [self._return_recorder(env) for env in self.envs] if wrappers else None
        self.observation, self.num_steps = np.empty((num_envs, *self.shape), self.dtype), 0
        self.action_mask: np.ndarray | None = None  # (envs, actions), where envs say what is valid

    @staticmethod
    def _return_recorder(env: Any) -> Any:
        while type(env).__name__ != "ReturnRecorder":
            env = env.env
        return env

    def reset(self, seed: int) -> np.ndarray:
        self.num_steps, self.observation, self.action_mask = 0, np.empty_like(self.observation), None
        seeds = np.random.SeedSequence(seed).generate_state(len(self.envs))
        for index, env_seed in enumerate(seeds):
            self._reset_env(index, self.observation, int(env_seed))
        return self.observation

    def _reset_env(self, index: int, into: np.ndarray, seed: int | None = None) -> None:
        env = self.envs[index]
        try:
            observation, info = env.reset(seed=seed)
            has_changed = env.observation_space is not self.observation_space and (
                env.observation_space != self.observation_space
            )
        except Exception as error:
            raise self._env_error(index, "at reset", error) from error
        if has_changed or np.shape(observation) != self.shape:
            raise BadInput(
                f"{self.spec}: env {index} changed its observation space at a reset after step "
                f"{self.num_steps}: it was {self.observation_space}"
            )
        self._store(into, index, observation)
        if self.is_scaled:
            self._check_bounds(index, observation)
        if ACTION_MASK in info:
            self._set_action_mask(index, info)
        self.episode_lengths[index], self.episode_returns[index] = 0, 0.0

    def step(self, actions: np.ndarray) -> BackendStep:
        self.num_steps += 1
        count = len(self.envs)
        if self.action_mask is not None:  # an env that gives no mask allows all actions
            self.action_mask = np.ones_like(self.action_mask)
        next_observation, reward = np.empty_like(self.observation), np.empty(count, np.float32)
        terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
        done, returns = [], []
        chosen = actions.tolist() if actions.ndim == 1 else actions
        lengths, totals = self.episode_lengths, self.episode_returns
        max_episode_steps, shape = self.max_episode_steps, self.shape
        for index, env in enumerate(self.envs):
            try:
                observation, env_reward, is_terminated, is_truncated, info = env.step(chosen[index])
                number = reward_number(env_reward)
            except Exception as error:
                raise self._env_error(index, f"on action {chosen[index]}", error) from error
            if np.shape(observation) != shape:
                raise BadInput(
                    f"{self.spec}: env {index} changed its observation space at step {self.num_steps}, "
                    f"on action {chosen[index]}: shape {np.shape(observation)}, was {shape}"
                )
            self._store(next_observation, index, observation)
            reward[index] = number
            totals[index] += number
            lengths[index] += 1
            is_truncated = is_truncated or lengths[index] == max_episode_steps
            if is_terminated or is_truncated:
                terminated[index], truncated[index] = bool(is_terminated), bool(is_truncated)
                done.append(index)
            elif ACTION_MASK in info:
                self._set_action_mask(index, info)
        if not done:
            self.observation = next_observation
            return BackendStep(next_observation, reward, terminated, truncated, next_observation, returns)
        observation = next_observation.copy()
        for index in done:
            if not getattr(self.envs[index], "life_lost", False):  # a lost life does not end the game
                recorders = self.return_recorders
                returns.append(float(recorders[index].total if recorders else totals[index]))
            self._reset_env(index, observation)
        self.observation = observation
        return BackendStep(next_observation, reward, terminated, truncated, observation, returns)

    def _store(self, into: np.ndarray, index: int, observation: Any) -> None:
        into[index] = observation
        is_other = self.is_byte and getattr(observation, "dtype", np.uint8) != np.uint8
        if is_other and not np.array_equal(into[index], observation):
            raise BadInput(
                f"{self.spec}: env {index} gave {observation.dtype} observations at step {self.num_steps} "
                "that are no bytes, and its space states uint8: state the type and bounds that it gives"
            )

    def _check_bounds(self, index: int, observation: Any) -> None:
        """Frames and bytes are scaled by their bounds, so these must be true."""
        space, low, high = self.observation_space, np.min(observation), np.max(observation)
        if low < space.low.min() or high > space.high.max():
            raise BadInput(
                f"{self.spec}: env {index} gave observations from {low:g} to {high:g}, and its space states "
                f"{space.low.min():g} to {space.high.max():g}: state the bounds that it gives"
            )

    def _set_action_mask(self, index: int, info: dict) -> None:
        count = int(getattr(self.action_space, "n", 0))
        if not count:
            return
        where = f"{self.spec}: env {index} gave at step {self.num_steps}"
        if self.action_mask is None:
            self.action_mask = np.ones((len(self.envs), count), bool)
        self.action_mask[index] = valid_actions(info, count, where)

    def _env_error(self, index: int, when: str, error: Exception) -> BadInput:
        message = " ".join(str(error).split()) or "no message"
        error_type = type(error).__name__
        return BadInput(
            f"{self.spec}: env {index} failed at step {self.num_steps} {when}: {error_type}: {message}"
        )

    def state_dict(self) -> dict[str, Any]:
        mask = self.action_mask
        return {
            "envs": [snapshot(env) for env in self.envs],
            "episode_lengths": list(self.episode_lengths),
            "episode_returns": [float(total) for total in self.episode_returns],
            "action_mask": None if mask is None else torch.from_numpy(mask.copy()),
        }

    def load_state_dict(self, state: dict[str, Any], observation: np.ndarray) -> None:
        state = with_new_names(
            state,
            {
                "worlds": "envs",
                "elapsed": "episode_lengths",
                "totals": "episode_returns",
                "mask": "action_mask",
            },
        )
        mask = state["action_mask"]
        self.action_mask = None if mask is None else mask.numpy().copy()
        for env, env_state in zip(self.envs, state["envs"], strict=True):
            restore(env, env_state)
        self.episode_lengths = list(state["episode_lengths"])
        self.episode_returns = list(state["episode_returns"])
        self.observation = observation

    def render(self) -> np.ndarray:
        return np.asarray(self.envs[0].render())

    def bound_episodes(self, steps: int) -> bool:
        """Cut episodes after so many steps, if nothing else limits them; whether that is so."""
        spec = self.envs[0].spec
        has_limit = bool(self.max_episode_steps or (spec and spec.kwargs.get("max_num_frames_per_episode")))
        self.max_episode_steps = self.max_episode_steps if has_limit else steps
        return not has_limit

    @property
    def render_fps(self) -> float:
        return float(self.envs[0].metadata.get("render_fps") or 30)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class VectorCartPole:
    """Gymnasium's own vectorized CartPole: the same equations on arrays."""

    action_mask = None

    def __init__(self, spec: str, num_envs: int, max_episode_steps: int | None):
        env = gym().make_vec(spec, num_envs, vectorization_mode="vector_entry_point").unwrapped
        self.spec, self.env = spec, env
        env.max_episode_steps = max_episode_steps or env.max_episode_steps or math.inf
        self.max_episode_steps = env.max_episode_steps
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.episode_returns = np.zeros(num_envs)

    def reset(self, seed: int) -> np.ndarray:
        self.episode_returns[:] = 0
        return self.env.reset(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))[0]

    def step(self, actions: np.ndarray) -> BackendStep:
        env = self.env
        next_observation, reward, terminated, truncated, _ = env.step(actions)
        self.episode_returns += reward
        done = env.prev_done
        if not done.any():
            return BackendStep(next_observation, reward, terminated, truncated, next_observation, [])
        # Gymnasium would reset one step late and waste an action: reset here instead, in the same way
        returns, count = self.episode_returns[done].tolist(), int(done.sum())
        env.state[:, done] = env.np_random.uniform(env.low, env.high, (4, count))
        env.steps[done], self.episode_returns[done] = 0, 0.0
        env.prev_done = np.zeros_like(done)
        observation = env.state.T.astype(np.float32)
        return BackendStep(next_observation, reward, terminated, truncated, observation, returns)

    def state_dict(self) -> dict[str, Any]:
        return {"env": snapshot(self.env), "episode_returns": self.episode_returns.tolist()}

    def load_state_dict(self, state: dict[str, Any], observation: np.ndarray) -> None:
        state = with_new_names(state, {"form": "env", "totals": "episode_returns"})
        restore(self.env, state["env"])
        self.episode_returns = np.array(state["episode_returns"])

    def close(self) -> None:
        self.env.close()
