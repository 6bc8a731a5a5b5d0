"""Goal environments: an observation says which goal is wanted and which one the state attains.

The form is that of gymnasium-robotics (Plappert et al. 2018, arXiv:1802.09464): observations are a dict of
`observation`, `achieved_goal` and `desired_goal`, and `compute_reward(achieved, desired, info)` gives the
reward for any goals, which is what lets an agent learn in hindsight from a goal that it did not try for.
`info` has `is_success`. `GoalReacher` gives MuJoCo's Reacher that form.
"""

from typing import Any, NamedTuple

import numpy as np

from torchstone.envs.make import gym
from torchstone.errors import BadInput

ACHIEVED, DESIRED, OBSERVATION = "achieved_goal", "desired_goal", "observation"
SUCCESS = ("is_success", "success")  # in `info`, as gymnasium-robotics has it, and its mazes
REWARDS = ("sparse", "dense")


def success_of(info: dict) -> bool | None:
    """Whether a step reached the goal, by `info`; None where it does not say so."""
    return next((bool(info[name]) for name in SUCCESS if name in info), None)


class GoalSlices(NamedTuple):
    """Where the goals are in an observation that is one vector."""

    achieved: slice
    desired: slice


def goal_slices(env: Any) -> GoalSlices | None:
    """Where `flatten_observation` laid the goals of an environment, or None if it has none, or if another
    wrapper changed the vector."""
    known = gym().spaces
    inner = getattr(env, "env", None)
    parts = getattr(getattr(inner, "observation_space", None), "spaces", None)
    if not isinstance(parts, dict) or not {ACHIEVED, DESIRED} <= parts.keys():
        return None
    bounds, first = {}, 0
    for name, part in parts.items():
        bounds[name] = slice(first, first + known.utils.flatdim(part))
        first = bounds[name].stop
    if env.observation_space.shape != (first,):
        return None
    return GoalSlices(bounds[ACHIEVED], bounds[DESIRED])


def goal_reacher(env: Any, *, reward: str = "sparse", threshold: float = 0.02) -> Any:
    """MuJoCo's Reacher as a goal environment: the fingertip is to be at the target, both in metres.

    What else is observed does not depend on the target: cosines and sines of both joints, and their
    velocities in rad/s. `is_success` says whether the fingertip is within `threshold` of the target.

    Args:
        reward: `sparse`: 0 within `threshold` and -1 elsewhere, whatever the action costs; `dense`: Reacher's
            own, minus distance and squared action.
        threshold: in metres.

    Raises:
        BadInput: another environment, reward or threshold.
    """
    gymnasium = gym()
    if reward not in REWARDS:
        raise BadInput(f"reward of GoalReacher is sparse or dense, not {reward}")
    if not 0 < threshold < 1:
        raise BadInput(f"threshold of GoalReacher is a distance in metres, such as 0.02, not {threshold}")
    if type(env.unwrapped).__name__ != "ReacherEnv" or env.observation_space.shape != (10,):
        raise BadInput("GoalReacher wraps Reacher-v5, which pip install 'torchstone[rl]' brings")

    def box(size: int) -> Any:
        return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    class GoalReacher(gymnasium.Wrapper):
        def __init__(self, env: Any):
            super().__init__(env)
            self.observation_space = gymnasium.spaces.Dict(
                {ACHIEVED: box(2), DESIRED: box(2), OBSERVATION: box(6)}
            )

        def reset(self, **kwargs):
            observation, info = self.env.reset(**kwargs)
            return self._split(observation), info

        def step(self, action):
            observation, own_reward, terminated, truncated, info = self.env.step(action)
            parts = self._split(observation)
            success = bool(self._distance(parts[ACHIEVED], parts[DESIRED]) <= threshold)
            value = own_reward if reward == "dense" else success - 1.0
            return parts, value, terminated, truncated, {**info, SUCCESS[0]: success}

        @staticmethod
        def _split(observation: np.ndarray) -> dict[str, np.ndarray]:
            # cos, cos, sin, sin, target x, y, velocities, fingertip - target
            target = observation[4:6]
            rest = np.concatenate([observation[:4], observation[6:8]])
            return {ACHIEVED: observation[8:] + target, DESIRED: target, OBSERVATION: rest}

        @staticmethod
        def _distance(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
            return np.asarray(np.linalg.norm(np.asarray(achieved) - desired, axis=-1))

    wrapped = GoalReacher(env)
    if reward == "sparse":  # the dense one is not a function of the goals alone
        distance = GoalReacher._distance
        wrapped.compute_reward = lambda achieved, desired, info: (
            (distance(achieved, desired) <= threshold).astype(np.float64) - 1.0
        )
    return wrapped


WRAPPERS = {"GoalReacher": goal_reacher}
