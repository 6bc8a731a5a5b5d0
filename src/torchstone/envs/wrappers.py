"""Wrappers that Gymnasium lacks: partial observations, observations of several parts as one vector, and
action masks moved from observation to `info`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from torchstone.envs.make import gym
from torchstone.errors import BadInput

ACTION_MASK = "action_mask"


def select_observation(env: Any, *, keep: str | int | Sequence[int]) -> Any:
    """Only the entries of an observation vector at the indices `keep`, such as `0,2`: CartPole without its
    velocities, which an agent must then infer from memory.

    Raises:
        BadInput: an index that is out of range.
    """
    gymnasium, space = gym(), env.observation_space
    indices = [int(index) for index in str(keep).strip("()[]").split(",") if index.strip()]
    if len(space.shape or ()) != 1 or not all(0 <= i < space.shape[0] for i in indices):
        raise BadInput(f"keep={keep}: give indices 0 to n - 1 of an observation of n numbers, here {space}")
    selected = gymnasium.spaces.Box(space.low[indices], space.high[indices], dtype=space.dtype)
    return gymnasium.wrappers.TransformObservation(env, lambda observation: observation[indices], selected)


def flatten_observation(env: Any) -> Any:
    """An environment whose observations are one float32 vector: categories one-hot, bytes divided by their
    bound, parts of a dict or tuple one after another. Text is left out; `left_out` of the result names it.

    Raises:
        BadInput: a part of no fixed size, or nothing but text.
    """
    gymnasium, space = gym(), env.observation_space
    parts, left_out = [], []
    for path, part in _parts(space, ()):
        if isinstance(part, gymnasium.spaces.Text) or getattr(part.dtype, "kind", "") == "U":
            left_out.append(".".join(map(str, path)) or "observation")
        elif isinstance(part, _flat_types()):
            parts.append((path, part, _byte_scale(part)))
        else:
            name = ".".join(map(str, path))
            where = f"the part {name!r}" if path else "its observation space"
            raise BadInput(
                f"{env.spec.id if env.spec else env}: {where} is {part}, which has no fixed size or meaning: "
                "wrap it into a Box (--wrappers module:Class)"
            )
    if not parts:
        raise BadInput(f"{env.spec.id if env.spec else env} gives nothing but text: {space}")
    flat = [gymnasium.spaces.flatten_space(part) for _, part, _ in parts]
    scales = [scale for *_, scale in parts]
    low, high = (
        np.concatenate([getattr(b, end) / s for b, s in zip(flat, scales, strict=True)], dtype=np.float32)
        for end in ("low", "high")
    )

    def flatten(observation: Any) -> np.ndarray:
        pieces = []
        for path, part, scale in parts:
            value = observation
            for key in path:
                value = value[key]
            piece = np.asarray(gymnasium.spaces.flatten(part, value), np.float32)
            pieces.append(piece if scale == 1 else piece / np.float32(scale))
        return np.concatenate(pieces)

    vector = gymnasium.spaces.Box(low, high, dtype=np.float32)
    wrapped = gymnasium.wrappers.TransformObservation(env, flatten, vector)
    wrapped.left_out = left_out
    return wrapped


def left_out_of(env: Any) -> list[str]:
    """The parts of the observation that `flatten_observation` left out, if it is among the wrappers."""
    while env is not env.unwrapped:
        if "left_out" in vars(env):
            return env.left_out
        env = env.env
    return []


def _parts(space: Any, path: tuple) -> Iterator[tuple[tuple, Any]]:
    """The spaces inside dicts and tuples, with the keys that lead to them."""
    known = gym().spaces
    if isinstance(space, known.Dict):
        for name, part in space.spaces.items():
            yield from _parts(part, (*path, name))
    elif isinstance(space, known.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _parts(part, (*path, index))
    else:
        yield path, space


def _flat_types() -> tuple[type, ...]:
    known = gym().spaces
    return (known.Box, known.Discrete, known.MultiDiscrete, known.MultiBinary)


def _byte_scale(part: Any) -> float:
    """Bytes are divided by the bound that their space states."""
    is_bytes = isinstance(part, gym().spaces.Box) and part.dtype == np.uint8
    return float(max(part.high.max(initial=0), 1)) if is_bytes else 1.0


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


def _flatten_any(env: Any) -> Any:
    """Gymnasium's `FlattenObservation` for arrays, whose type it keeps; ours for all else."""
    gymnasium = gym()
    is_array = isinstance(env.observation_space, gymnasium.spaces.Box)
    return gymnasium.wrappers.FlattenObservation(env) if is_array else flatten_observation(env)


WRAPPERS = {"PartialObservation": select_observation, "FlattenObservation": _flatten_any}
