"""Backends of `VectorEnv`: a Python loop over any Gymnasium environment, or its own vectorized form.

What they share is in `torchstone.envs.vector_env`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from torchstone.envs.env_state import layers, restore, snapshot
from torchstone.envs.goals import success_of
from torchstone.envs.make import close_env, gym, make_env, reward_number
from torchstone.envs.wrappers import ACTION_MASK, check_bounds, valid_actions
from torchstone.errors import BadInput
from torchstone.parts.old_keys import with_new_names

STEP_RESULT = "step gives (observation, reward, terminated, truncated, info)"


class BackendStep(NamedTuple):
    """One step of all envs; `observation` is `next_observation`, except in envs that were reset."""

    next_observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    observation: np.ndarray
    returns: list[float]
    successes: Sequence[bool] = ()  # of the episodes that ended, where `info` says so


def is_scaled(space: Any) -> bool:
    """Whether networks divide observations of a Box space by its bounds: frames of any type, and bytes."""
    return len(space.shape) == 3 or space.dtype == np.uint8


def needs_bounds_check(space: Any) -> bool:
    """Whether observations could be outside of bounds that they are divided by: not bytes from 0 to 255."""
    return is_scaled(space) and not (space.dtype == np.uint8 and space.high.min(initial=255) == 255)


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
        self.checks_bounds = needs_bounds_check(self.observation_space)
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
            observation, info = _result(env.reset(seed=seed), 2, "reset gives (observation, info)")
            has_changed = env.observation_space is not self.observation_space and (
                env.observation_space != self.observation_space
            )
            if has_changed or np.shape(observation) != self.shape:
                raise BadInput(
                    f"{self.spec}: env {index} changed its observation space at a reset after step "
                    f"{self.num_steps}: it was {self.observation_space}, and the observation has shape "
                    f"{np.shape(observation)}"
                )
            self._store(into, index, observation)
        except BadInput:
            raise
        except (Exception, SystemExit) as error:
            raise self._env_error(index, "at reset", error) from error
        if not self.is_byte and not math.isfinite(np.add.reduce(into[index], axis=None)):
            self._check_finite(index, into[index])
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
        done, returns, successes = [], [], []
        chosen = actions.tolist() if actions.ndim == 1 else actions
        lengths, totals = self.episode_lengths, self.episode_returns
        max_episode_steps, shape = self.max_episode_steps, self.shape
        for index, env in enumerate(self.envs):
            try:
                result = _result(env.step(chosen[index]), 5, STEP_RESULT)
                observation, env_reward, is_terminated, is_truncated, info = result
                number = reward_number(env_reward)
                is_terminated, is_truncated = bool(is_terminated), bool(is_truncated)
                if np.shape(observation) != shape:
                    raise BadInput(
                        f"{self.spec}: env {index} changed its observation space at step {self.num_steps}, "
                        f"on action {chosen[index]}: shape {np.shape(observation)}, was {shape}"
                    )
                self._store(next_observation, index, observation)
            except BadInput:
                raise
            except (Exception, SystemExit) as error:
                raise self._env_error(index, f"on action {chosen[index]}", error) from error
            reward[index] = number
            totals[index] += number
            lengths[index] += 1
            is_truncated = is_truncated or lengths[index] == max_episode_steps
            if is_terminated or is_truncated:
                terminated[index], truncated[index] = is_terminated, is_truncated
                done.append(index)
                successes.append(success_of(info))
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
        known = () if successes == [None] * len(done) else [bool(success) for success in successes]
        return BackendStep(next_observation, reward, terminated, truncated, observation, returns, known)

    def _store(self, into: np.ndarray, index: int, observation: Any) -> None:
        """Copy an observation into a row, if it is what its space states: that decides on its scale."""
        array = np.asarray(observation)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"the observation is no array of numbers, but of {array.dtype}")
        into[index] = array
        if self.is_byte and array.dtype != np.uint8 and not np.array_equal(into[index], array):
            raise BadInput(
                f"{self.spec}: env {index} gave {array.dtype} observations at step {self.num_steps} "
                "that are no bytes, and its space states uint8: state the type and bounds that it gives"
            )
        if self.checks_bounds:
            try:
                check_bounds(self.observation_space, array)
            except ValueError as error:
                where = f"{self.spec}: env {index} gave at step {self.num_steps}"
                raise BadInput(f"{where} {error}") from error

    def _check_finite(self, index: int, observation: np.ndarray) -> None:
        if not np.isfinite(observation).all():
            raise BadInput(
                f"{self.spec}: env {index} gave an observation that is NaN or infinite at a reset after step "
                f"{self.num_steps}"
            )

    def _set_action_mask(self, index: int, info: dict) -> None:
        count = int(getattr(self.action_space, "n", 0))
        if not count:
            return
        where = f"{self.spec}: env {index} gave at step {self.num_steps}"
        if self.action_mask is None:
            self.action_mask = np.ones((len(self.envs), count), bool)
        self.action_mask[index] = valid_actions(info, count, where)

    def _env_error(self, index: int, when: str, error: BaseException) -> BadInput:
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
        frame = np.asarray(self.envs[0].render())
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            what = "no picture" if frame.dtype.kind == "O" else f"{frame.dtype} of {frame.shape}"
            raise BadInput(f"{self.spec} renders {what}, where a video needs uint8 (height, width, 3)")
        return frame

    @property
    def episode_limit(self) -> int | None:
        """Steps after which something cuts episodes, if it is known."""
        limits, env = [self.max_episode_steps or None], self.envs[0]
        for layer in layers(env):
            limits.append(vars(layer).get("_max_episode_steps"))  # Gymnasium's TimeLimit
        frames = env.spec.kwargs.get("max_num_frames_per_episode") if env.spec else None
        if frames:
            skips = [getattr(type(layer), "FRAME_SKIP", 1) for layer in layers(env)]
            skip = env.spec.kwargs.get("frameskip", 1)
            limits.append(-(-frames // (max(skips) * (skip if isinstance(skip, int) else 1))))
        return min((limit for limit in limits if limit), default=None)

    def bound_episodes(self, steps: int) -> bool:
        """Cut episodes after so many steps, if nothing else limits them; whether that is so."""
        is_unlimited = self.episode_limit is None
        self.max_episode_steps = steps if is_unlimited else self.max_episode_steps
        return is_unlimited

    @property
    def render_fps(self) -> float:
        return float(self.envs[0].metadata.get("render_fps") or 30)

    def close(self) -> None:
        for env in self.envs:
            close_env(env)


def _result(result: Any, count: int, form: str) -> tuple:
    """What `reset` or `step` gave, if it has the form that Gymnasium's have.

    Raises:
        TypeError: it has not; environments of the older Gym gave one less.
    """
    if not (isinstance(result, tuple) and len(result) == count and isinstance(result[-1], dict)):
        found = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        if isinstance(result, tuple) and len(result) == count:
            found = f"an info of {type(result[-1]).__name__}"
        raise TypeError(f"Gymnasium's {form}, and it gave {found}")
    return result


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

    @property
    def episode_limit(self) -> int | None:
        return int(self.max_episode_steps) if math.isfinite(self.max_episode_steps) else None

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
