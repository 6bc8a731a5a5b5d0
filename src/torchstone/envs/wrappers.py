"""Wrappers that Gymnasium lacks: partial observations, and action masks moved from observation to `info`."""

from typing import Any

import numpy as np

from torchstone.envs.make import gym
from torchstone.errors import BadInput

ACTION_MASK = "action_mask"


def select_observation(env: Any, *, keep: str | int) -> Any:
    """Only the entries of an observation vector at the indices `keep`, such as `0,2`: CartPole without its
    velocities, which an agent must then infer from memory.

    Raises:
        BadInput: an index that is out of range.
    """
    gymnasium, space = gym(), env.observation_space
    indices = [int(index) for index in str(keep).split(",")]
    if len(space.shape or ()) != 1 or not all(0 <= i < space.shape[0] for i in indices):
        raise BadInput(f"keep={keep}: give indices 0 to n - 1 of an observation of n numbers, here {space}")
    selected = gymnasium.spaces.Box(space.low[indices], space.high[indices], dtype=space.dtype)
    return gymnasium.wrappers.TransformObservation(env, lambda observation: observation[indices], selected)


def action_mask_to_info(env: Any) -> Any:
    """An environment whose dict observation holds `action_mask`, as one that gives it in `info`."""
    gymnasium = gym()
    rest = {name: space for name, space in env.observation_space.spaces.items() if name != ACTION_MASK}
    only = next(iter(rest)) if len(rest) == 1 else None

    class ActionMaskWrapper(gymnasium.Wrapper):
        def __init__(self, env: Any):
            super().__init__(env)
            self.observation_space = rest[only] if only else gymnasium.spaces.Dict(rest)

        def reset(self, **kwargs):
            observation, info = self.env.reset(**kwargs)
            return self._split(observation, info)

        def step(self, action):
            observation, *result, info = self.env.step(action)
            observation, info = self._split(observation, info)
            return (observation, *result, info)

        def _split(self, observation: dict, info: dict) -> tuple[Any, dict]:
            rest = {name: value for name, value in observation.items() if name != ACTION_MASK}
            info = {**info, ACTION_MASK: observation[ACTION_MASK]}
            return rest[only] if only else rest, info

    return ActionMaskWrapper(env)


def valid_actions(info: dict, count: int, where: str) -> np.ndarray:
    """Which of `count` actions are valid, by `info`.

    Raises:
        BadInput: a mask of another length, or one that allows no action.
    """
    mask = np.asarray(info[ACTION_MASK], bool)
    if mask.shape != (count,) or not mask.any():
        problem = f"shape {mask.shape}" if mask.shape != (count,) else "no action allowed"
        raise BadInput(f"{where} an action mask with {problem}; it must allow one or more of {count} actions")
    return mask


def sample_valid(action_space: Any, info: dict) -> Any:
    """A random action among those that are valid by `info`."""
    if ACTION_MASK in info and hasattr(action_space, "n"):
        return action_space.sample(np.asarray(info[ACTION_MASK], np.int8))
    return action_space.sample()


WRAPPERS = {"PartialObservation": select_observation}
