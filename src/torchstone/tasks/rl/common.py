"""What every agent needs besides its loss: a network matching its envs, greedy evaluation, logging, a Run."""

import math
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchstone.data import identity
from torchstone.engine.console import notify
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.envs.backends import is_scaled
from torchstone.envs.make import ActionKind, check_spaces, left_out
from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput
from torchstone.parts.rl.observations import BYTE
from torchstone.tasks.rl.evaluate import TEST, VALIDATION, PolicyEvaluator, play, return_statistics

FRAME_SIZE = (84, 84)


def num_updates(total: int, per_update: int) -> int:
    """Updates that `total` environment steps (or episodes) make, rounded up.

    Raises:
        BadInput: there is not one step, or an update without steps.
    """
    if total < 1 or per_update < 1:
        raise BadInput(
            f"training needs at least 1 step per update and 1 in all, not {per_update} and {total}"
        )
    return -(-total // per_update)


def model_config(recipe: Any, system: str, action_kind: ActionKind = "any") -> dict[str, Any]:
    """The arguments of a network that match the spaces of the recipe's environment.

    Raises:
        BadInput: an action space that the system does not support, or observations that no network takes.
    """
    observation_space, action_space = check_spaces(recipe.data, action_kind, system, recipe.wrappers)
    shape, is_discrete = observation_space.shape, hasattr(action_space, "n")
    if len(shape) == 3 and shape[1:] != FRAME_SIZE:
        raise BadInput(
            f"{recipe.data} has frames of {shape}, and the network takes k × 84 × 84: for Atari add "
            "--wrappers AtariPreprocessing"
        )
    if len(shape) > 3:
        raise BadInput(f"{recipe.data} has observations of {shape}, which no network here takes")
    config = {
        "observation_shape": list(shape),
        "num_actions": int(action_space.n if is_discrete else action_space.shape[0]),
        "continuous": not is_discrete,
    }
    scale = observation_scale(observation_space)
    return config if scale == BYTE else {**config, "observation_scale": scale}


def observation_scale(space: Any) -> float:
    """What frames and bytes of a Box space are divided by: the largest bound that it states.

    Without finite bounds, as after normalization, frames are taken as they are. Vectors of floats are never
    scaled.
    """
    if not is_scaled(space):
        return BYTE  # not used
    bound = float(max(abs(space.low).max(), abs(space.high).max()))
    return bound if math.isfinite(bound) and bound > 0 else 1.0


def make_envs(recipe: Any) -> VectorEnv:
    """The training envs of the recipe."""
    return VectorEnv(
        recipe.data,
        recipe.num_envs,
        seed=recipe.seed,
        wrappers=recipe.wrappers,
        max_episode_steps=recipe.max_episode_steps,
    )


def rollout_metrics(batch: Any) -> dict[str, torch.Tensor | float]:
    """Environment steps so far, and the mean return of the training episodes that ended in this batch."""
    metrics: dict[str, torch.Tensor | float] = {"env_steps": float(batch.env_steps)}
    if batch.returns:
        metrics["episodic_return"] = sum(batch.returns) / len(batch.returns)
    return metrics


def make_run(
    model: nn.Module,
    recipe: Any,
    stream: Any,
    update: Callable[[Any], Mapping],
    state: dict[str, Any],
    model_config: dict[str, Any],
) -> Run:
    """A Run of `recipe.updates` updates, evaluated by the mean return of greedy episodes in separate envs."""
    identity.record(recipe.data)
    device = select_device(recipe.device)
    evaluator = PolicyEvaluator(
        recipe.data, recipe.wrappers, recipe.max_episode_steps, recipe.eval_episodes, device
    )
    env = {
        "spec": recipe.data,
        "wrappers": list(recipe.wrappers),
        "max_episode_steps": recipe.max_episode_steps,
        "episodes": recipe.eval_episodes,
        "exact": stream.is_exact,  # whether resuming continues the very episodes that were interrupted
    }
    description = f"{recipe.data} of Gymnasium {version('gymnasium')}"
    if text := left_out(recipe.data, tuple(recipe.wrappers)):
        description += f"; text is left out of the observations: {', '.join(text)}"
    if limit := evaluator.assumed_limit():
        description += f"; it states no time limit, so evaluation cuts episodes after {limit:,} steps"
        description += " (--max-episode-steps N for another limit)"
    if not stream.is_exact:
        description += "; resuming begins new episodes"
    metadata = {"task": "play", "variant": recipe.variant, "model_config": model_config, "env": env}
    metadata["data"] = description

    def report(folder: Path) -> None:
        try:
            play(model, metadata, episodes=1, video=folder / "episode.mp4")
        except Exception as error:  # noqa: BLE001  the training is finished, whatever an env does now
            notify(f"no video of an episode: {error}")

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: return_statistics(evaluator(model, VALIDATION)),
        best_metric="return",
        state={"model": model, **state, "stream": stream},
        steps=recipe.updates,
        test=lambda: return_statistics(evaluator(model, TEST), std=True),
        report=report if recipe.record_video else None,
        metadata=metadata,
    )
