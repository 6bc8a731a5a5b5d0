"""When an episode terminates, as a function of where a step led: for steps that a learned model predicts.

The functions are those of Gymnasium's own environments. A time limit is no termination.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.envs.make import import_here
from torchstone.errors import BadInput

# observation, action within the env's bounds, next observation -> whether the episode is over
Termination = Callable[[Tensor, Tensor, Tensor], Bool[Tensor, " batch"]]


def never(
    observation: Float[Tensor, "batch n"], action: Tensor, next_observation: Float[Tensor, "batch n"]
) -> Bool[Tensor, " batch"]:
    return torch.zeros(len(next_observation), dtype=torch.bool, device=next_observation.device)


def inverted_pendulum(
    observation: Float[Tensor, "batch n"], action: Tensor, next_observation: Float[Tensor, "batch n"]
) -> Bool[Tensor, " batch"]:
    """The pole is more than 0.2 rad from upright."""
    return ~next_observation.isfinite().all(1) | (next_observation[:, 1].abs() > 0.2)


def hopper(
    observation: Float[Tensor, "batch n"], action: Tensor, next_observation: Float[Tensor, "batch n"]
) -> Bool[Tensor, " batch"]:
    """Too low, leaning, or in a state beyond ±100."""
    z, angle = next_observation[:, 0], next_observation[:, 1]
    # the size is compared: the size of a comparison, as in the authors' code, forgives all that is below -100
    is_healthy = (next_observation[:, 1:].abs() < 100).all(1) & (z > 0.7) & (angle.abs() < 0.2)
    return ~is_healthy


def walker2d(
    observation: Float[Tensor, "batch n"], action: Tensor, next_observation: Float[Tensor, "batch n"]
) -> Bool[Tensor, " batch"]:
    z, angle = next_observation[:, 0], next_observation[:, 1]
    return ~((z > 0.8) & (z < 2.0) & (angle.abs() < 1.0))


def ant(
    observation: Float[Tensor, "batch n"], action: Tensor, next_observation: Float[Tensor, "batch n"]
) -> Bool[Tensor, " batch"]:
    z = next_observation[:, 0]
    return ~(next_observation.isfinite().all(1) & (z >= 0.2) & (z <= 1.0))


def humanoid(
    observation: Float[Tensor, "batch n"], action: Tensor, next_observation: Float[Tensor, "batch n"]
) -> Bool[Tensor, " batch"]:
    z = next_observation[:, 0]
    return ~((z > 1.0) & (z < 2.0))


def mountain_car(
    observation: Float[Tensor, "batch n"], action: Tensor, next_observation: Float[Tensor, "batch n"]
) -> Bool[Tensor, " batch"]:
    """At the flag, and not rolling back."""
    return (next_observation[:, 0] >= 0.45) & (next_observation[:, 1] >= 0)


KNOWN: dict[str, Termination] = {
    "Pendulum-v1": never,
    "MountainCarContinuous-v0": mountain_car,
    **dict.fromkeys(("HalfCheetah-v5", "Swimmer-v5", "Reacher-v5", "Pusher-v5"), never),
    "InvertedPendulum-v5": inverted_pendulum,
    "Hopper-v5": hopper,
    "Walker2d-v5": walker2d,
    "Ant-v5": ant,
    "Humanoid-v5": humanoid,
}


def find_termination(name: str, spec: str) -> Termination:
    """The function `name`: `auto` for the one of the environment `spec`, `never`, or `module:function`.

    Raises:
        BadInput: none is known for the environment, or there is no such function.
    """
    if name == "never":
        return never
    if name == "auto":
        if spec not in KNOWN:
            raise BadInput(
                f"when an episode of {spec} terminates is not known here: --termination never, or "
                f"module:function of observation, action and next observation; known are {', '.join(KNOWN)}"
            )
        return KNOWN[spec]
    module, _, function = name.partition(":")
    found = getattr(import_here(module, f"the termination {name}"), function, None) if function else None
    if not callable(found):
        raise BadInput(f"no termination {name!r}: auto, never, or module:function")
    return found
