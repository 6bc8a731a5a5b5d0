"""Wrappers that Gymnasium has not: less seen than there is, and a mask of actions taken out of what is seen."""

from typing import Any

import numpy as np

from torchstone.envs.make import gym
from torchstone.errors import BadInput

MASK = "action_mask"


def partly(env: Any, *, keep: str | int) -> Any:
    """Of a row of observed numbers only those at the places `keep`, such as `0,2`: CartPole without its
    velocities, which an agent must then remember.

    Raises:
        BadInput: a place that is none.
    """
    gymnasium, space = gym(), env.observation_space
    places = [int(place) for place in str(keep).split(",")]
    if len(space.shape or ()) != 1 or not all(0 <= p < space.shape[0] for p in places):
        raise BadInput(f"keep={keep}: places 0 to n - 1 of n numbers are kept, out of {space}")
    kept = gymnasium.spaces.Box(space.low[places], space.high[places], dtype=space.dtype)
    return gymnasium.wrappers.TransformObservation(env, lambda seen: seen[places], kept)


def unmasked(env: Any) -> Any:
    """An environment that shows `action_mask` beside what is to be seen, as one that tells it in `info`."""
    gymnasium = gym()
    rest = {name: s for name, s in env.observation_space.spaces.items() if name != MASK}
    only = next(iter(rest)) if len(rest) == 1 else None

    class ActionMask(gymnasium.Wrapper):
        def __init__(self, env: Any):
            super().__init__(env)
            self.observation_space = rest[only] if only else gymnasium.spaces.Dict(rest)

        def reset(self, **options):
            seen, about = self.env.reset(**options)
            return self._split(seen, about)

        def step(self, action):
            seen, *outcome, about = self.env.step(action)
            seen, about = self._split(seen, about)
            return (seen, *outcome, about)

        def _split(self, seen: dict, about: dict) -> tuple[Any, dict]:
            rest = {name: value for name, value in seen.items() if name != MASK}
            return rest[only] if only else rest, {**about, MASK: seen[MASK]}

    return ActionMask(env)


def allowed(about: dict, count: int, where: str) -> np.ndarray:
    """Which of `count` actions `info` says are valid.

    Raises:
        BadInput: a mask of another length, or one that leaves nothing.
    """
    found = np.asarray(about[MASK], bool)
    if found.shape != (count,) or not found.any():
        what = f"shape {found.shape}" if found.shape != (count,) else "no action allowed"
        raise BadInput(f"{where} an action mask with {what}; one or more of {count} are to be")
    return found


def some(actions: Any, about: dict) -> Any:
    """One of the space `actions` at random, of those that `info` says are valid."""
    if MASK in about and hasattr(actions, "n"):
        return actions.sample(np.asarray(about[MASK], np.int8))
    return actions.sample()


WRAP = {"PartialObservation": partly}
