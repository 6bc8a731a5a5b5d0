"""Whether a world fits what is to learn in it: its spaces, and what would fit instead."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

from torchstone.envs.make import gym, make
from torchstone.errors import BadInput

Kind = Literal["discrete", "continuous", "any"]  # of actions
FITS = {
    "discrete": ("discrete actions", "dqn, a2c or ppo", "CartPole-v1"),
    "continuous": ("continuous actions", "ddpg or ppo", "Pendulum-v1"),
}


@functools.cache
def spaces(spec: str, wrappers: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """The spaces of one world's observations and actions."""
    env, _ = make(spec, wrappers, None)
    env.close()
    return env.observation_space, env.action_space


def needs(
    spec: str,
    kind: Kind,
    system: str,
    wrappers: Sequence[str] = (),
) -> tuple[Any, Any]:
    """The spaces of `spec`, if its actions are of the kind that `system` can choose.

    Raises:
        BadInput: they are not; it names systems that fit the world, and a world that fits the system.
    """
    observations, actions = spaces(spec, tuple(wrappers))
    found = gym().spaces
    has = "other"
    if isinstance(actions, found.Discrete):
        has = "discrete"
    elif isinstance(actions, found.Box) and len(actions.shape) == 1:
        has = "continuous"
    if has == "other":
        raise BadInput(
            f"{spec} has actions {actions}, which {system} cannot choose: try a world with discrete "
            "ones, such as CartPole-v1, or with a row of continuous ones, such as Pendulum-v1"
        )
    if kind not in (has, "any"):
        said, systems, _ = FITS[has]
        raise BadInput(
            f"{spec} has {said}, which {system} cannot choose{' among' * (kind == 'discrete')}: try "
            f"{systems}, or another world such as {FITS[kind][2]}"
        )
    return observations, actions
