"""Wrappers that Gymnasium lacks: partial observations, observations of several parts as one vector, and
action masks moved from observation to `info`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from torchstone.envs.make import gym
from torchstone.errors import BadInput

ACTION_MASK = "action_mask"
FRAME_SIZE = (84, 84)  # that networks take


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
    """An environment whose observations are one float32 vector: categories one-hot, frames and whole numbers
    divided by their bound (`space_scale`), parts of a dict or tuple one after another. Text is left out;
    `left_out` of the result names it.

    Raises:
        BadInput: a part of no fixed size, or nothing but text.
    """
    gymnasium, space = gym(), env.observation_space
    parts, left_out = [], []
    for path, part in _parts(space, ()):
        if isinstance(part, gymnasium.spaces.Text) or getattr(part.dtype, "kind", "") == "U":
            left_out.append(".".join(map(str, path)) or "observation")
        elif isinstance(part, _flat_types()):
            parts.append((path, part, space_scale(part)))
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
            pieces.append(_flat_piece(part, value, scale))
        return np.concatenate(pieces)

    vector = gymnasium.spaces.Box(low, high, dtype=np.float32)
    wrapped = gymnasium.wrappers.TransformObservation(env, flatten, vector)
    wrapped.left_out = left_out
    return wrapped


def _flat_piece(part: Any, value: Any, scale: float) -> np.ndarray:
    """One part of an observation as a float32 vector.

    Raises:
        ValueError: what contradicts the space, where that would change what the numbers mean.
    """
    known, array = gym().spaces, np.asarray(value)
    if isinstance(part, known.Box):
        is_whole = part.dtype.kind in "iu" and array.dtype.kind == "f"
        if (is_whole and not np.array_equal(array, np.rint(array))) or array.dtype.kind not in "biuf":
            raise ValueError(f"an observation of {array.dtype}, and its space states {part.dtype}")
        if scale != 1:
            check_bounds(part, array)
        piece = array.astype(np.float32).reshape(-1)
        return piece if scale == 1 else piece / np.float32(scale)
    if isinstance(part, known.MultiBinary):
        bounds, start = np.full(part.shape, 2), 0
    elif isinstance(part, known.Discrete):
        bounds, start, array = np.array([part.n]), part.start, array.reshape(-1)
    else:
        bounds, start = part.nvec, getattr(part, "start", 0)
    index = np.asarray(array - start)
    is_valid = index.shape == bounds.shape and np.array_equal(index, np.rint(index))
    if not is_valid or (index < 0).any() or (index >= bounds).any():
        raise ValueError(f"the observation {value!r} is not in its space {part}")
    if isinstance(part, known.MultiBinary):
        return index.reshape(-1).astype(np.float32)
    sizes = bounds.reshape(-1)
    piece = np.zeros(sizes.sum(), np.float32)
    piece[np.concatenate([[0], sizes.cumsum()[:-1]]) + index.reshape(-1).astype(np.int64)] = 1
    return piece


def space_scale(space: Any) -> float:
    """What numbers of a space are divided by: the largest bound that it states of frames (three dimensions,
    or two from 0 to one bound) and of whole numbers. Vectors of floats are taken as they are, and so is what
    has no bounds: infinite ones, or those of the type, from 2^24 on."""
    if not isinstance(space, gym().spaces.Box):
        return 1.0
    low, high = float(space.low.min(initial=0)), float(space.high.max(initial=0))
    is_grey = len(space.shape) == 2 and (space.low == 0).all() and (space.high == high).all()
    if not (is_grey or len(space.shape) == 3 or space.dtype.kind in "iu"):
        return 1.0
    bound = max(abs(low), abs(high))
    return bound if 0 < bound < 2**24 else 1.0


def check_bounds(space: Any, observation: Any) -> None:
    """What is divided by its bound must be within it.

    Raises:
        ValueError: it is not.
    """
    low, high = float(space.low.min()), float(space.high.max())
    found = float(np.min(observation)), float(np.max(observation))
    slack = (high - low) / 100 if space.dtype.kind == "f" else 0.0  # what resizing overshoots
    if found[0] < low - slack or found[1] > high + slack:
        raise ValueError(
            f"observations from {found[0]:g} to {found[1]:g}, and its space states {low:g} to {high:g}: "
            "state the bounds that it gives"
        )


def as_array(env: Any) -> Any:
    """An environment with observations as networks take them: frames with channels first, bytes, or floats.

    Frames and bytes stay as they are, for the network to scale; all else that is to be scaled, and every
    space but a Box, becomes a vector of floats.
    """
    gymnasium, space = gym(), env.observation_space
    if not isinstance(space, gymnasium.spaces.Box) or not space.shape:
        return flatten_observation(env)
    is_frames = len(space.shape) == 3
    if is_frames and space.shape[:2] == FRAME_SIZE and space.shape[1:] != FRAME_SIZE:
        low, high = np.moveaxis(space.low, 2, 0), np.moveaxis(space.high, 2, 0)
        first = gymnasium.spaces.Box(low, high, dtype=space.dtype)
        return gymnasium.wrappers.TransformObservation(env, lambda x: np.moveaxis(np.asarray(x), 2, 0), first)
    if not is_frames and space.dtype != np.uint8 and space_scale(space) != 1:
        return flatten_observation(env)
    return env


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
    """Gymnasium's `FlattenObservation` for bytes, which networks scale, and vectors; ours for all else."""
    gymnasium, space = gym(), env.observation_space
    is_box = isinstance(space, gymnasium.spaces.Box)
    if is_box and (space.dtype == np.uint8 or space_scale(space) == 1):
        return gymnasium.wrappers.FlattenObservation(env)
    return flatten_observation(env)


def resize_frames(env: Any, *, channels: str = "", size: int = FRAME_SIZE[0]) -> Any:
    """Frames of any size as channels × `size` × `size`, of the same type and bounds, by area interpolation.

    Args:
        channels: `first` or `last`, which axis they are; needed only where both or neither of them could be,
            having up to four.

    Raises:
        BadInput: no frames, or channels that are not known.
    """
    from torchstone.envs.atari import area_weights

    gymnasium, space = gym(), env.observation_space
    shape = space.shape or ()
    if len(shape) not in (2, 3):
        raise BadInput(f"ResizeFrames takes frames, which have two or three dimensions, not {space}")
    ends = {"first": 0, "last": len(shape) - 1}
    likely = [name for name, axis in ends.items() if shape[axis] <= 4]
    if len(shape) == 3 and not channels:
        if len(likely) != 1:
            raise BadInput(
                f"frames of {shape} have channels {'first or last' if likely else 'at neither end'}: say "
                "which with ResizeFrames:channels=first or ResizeFrames:channels=last"
            )
        channels = likely[0]
    if channels not in ("", *ends):
        raise BadInput(f"channels of ResizeFrames is first or last, not {channels}")
    axis = ends.get(channels, 0)

    def channels_first(x: Any) -> np.ndarray:
        return np.asarray(x)[None] if len(shape) == 2 else np.moveaxis(np.asarray(x), axis, 0)

    height, width = channels_first(np.empty(shape, bool)).shape[1:]
    rows, columns = area_weights(height, size), area_weights(width, size).T

    def resize(observation: Any) -> np.ndarray:
        frames = rows @ channels_first(observation).astype(np.float32) @ columns
        return (np.rint(frames) if space.dtype.kind in "iu" else frames).astype(space.dtype)

    low, high = space.low.min(), space.high.max()
    count = channels_first(np.empty(shape, bool)).shape[0]
    resized = gymnasium.spaces.Box(low, high, (count, size, size), space.dtype)
    return gymnasium.wrappers.TransformObservation(env, resize, resized)


def unit_action(env: Any) -> Any:
    """Continuous actions from -1 to 1 in every dimension, stretched to the bounds, and rounded where these
    are of whole numbers: what a policy reaches that begins around 0.

    Raises:
        BadInput: actions that are not continuous, or have no bounds.
    """
    gymnasium, space = gym(), env.action_space
    if not isinstance(space, gymnasium.spaces.Box) or not np.isfinite([space.low, space.high]).all():
        raise BadInput(f"UnitAction takes actions of a Box with finite bounds, not {space}")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)

    def stretch(action: np.ndarray) -> np.ndarray:
        value = np.clip(low + (np.asarray(action, np.float64) + 1) / 2 * (high - low), low, high)
        return (np.rint(value) if space.dtype.kind in "iu" else value).astype(space.dtype)

    unit = gymnasium.spaces.Box(-1, 1, space.shape, np.float32)
    return gymnasium.wrappers.TransformAction(env, stretch, unit)


WRAPPERS = {
    "UnitAction": unit_action,
    "PartialObservation": select_observation,
    "FlattenObservation": _flatten_any,
    "ResizeFrames": resize_frames,
}
