"""What every agent needs besides its loss: a network matching its envs, greedy evaluation, logging, a Run."""

import math
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from torchstone.engine.console import notify
from torchstone.engine.device import select_device
from torchstone.engine.run import EVALUATION_SHARE, FORWARDS, Examples, Run
from torchstone.envs.backends import is_scaled
from torchstone.envs.make import (
    SIDE_BY_SIDE,
    ActionKind,
    check_spaces,
    has_splits,
    in_split,
    is_own,
    left_out,
)
from torchstone.envs.vector_env import EPISODE_BOUND, VectorEnv, gives_success
from torchstone.envs.wrappers import FRAME_SIZE, space_scale
from torchstone.errors import BadInput
from torchstone.parts.rl.observations import BYTE
from torchstone.tasks.rl.applications import application, known_tables
from torchstone.tasks.rl.evaluate import TEST, VALIDATION, PolicyEvaluator, play, record_env
from torchstone.tasks.rl.goals import draw_goals
from torchstone.tasks.rl.storage import check_rollout_memory

WANTED, FEWEST = 10, 8  # evaluations during training, and their episodes


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
            f"{recipe.data} has frames of {shape}, and the network takes k × 84 × 84: {_advice(recipe)}"
        )
    if len(shape) > 3:
        advice = _advice(recipe, is_frame=False)
        raise BadInput(f"{recipe.data} has observations of {shape}, which no network here takes: {advice}")
    config = {
        "observation_shape": list(shape),
        "num_actions": int(action_space.n if is_discrete else action_space.shape[0]),
        "continuous": not is_discrete,
    }
    scale = observation_scale(observation_space)
    return config if scale == BYTE else {**config, "observation_scale": scale}


def _advice(recipe: Any, is_frame: bool = True) -> str:
    """Wrappers that make a vector, or frames that the network takes, of what an environment shows."""
    before = "".join(f"{name}," for name in recipe.wrappers)
    flat = f"--wrappers {before}FlattenObservation for a network without convolutions"
    if not is_frame:
        return flat
    resize = f"{before}AtariPreprocessing" if "ALE/" in recipe.data else f"{before}ResizeFrames"
    return f"--wrappers {resize}, or {flat}"


def observation_scale(space: Any) -> float:
    """What frames and bytes of a Box space are divided by: the largest bound that it states.

    Without finite bounds, as after normalization, frames are taken as they are. Vectors of floats are never
    scaled.
    """
    return space_scale(space) if is_scaled(space) else BYTE  # which is not used


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


def examples_of(recipe: Any, episode_limit: int, update_work: float | None = None) -> tuple[Examples, int]:
    """Environment steps of an update and, at most, of an evaluation, whose episodes may end before; and how
    many episodes an evaluation during training has. Where updates are of whole episodes, these are counted.

    Where `recipe.eval_episodes` would take too much of the work for `WANTED` evaluations, these are of fewer
    episodes, `FEWEST` at least.

    Args:
        update_work: of an update, in forward passes, where minibatches are most of it.
    """
    is_episodic, episodes = hasattr(recipe, "total_episodes"), recipe.eval_episodes
    envs = 1 if getattr(recipe, "actors", "sync") == "async" else recipe.num_envs
    batch, unit = (envs, "episodes") if is_episodic else (envs * recipe.num_steps, "environment steps")
    cost = 1 if is_episodic else episode_limit
    work = FORWARDS * recipe.updates * batch if update_work is None else update_work * recipe.updates
    affordable = int(EVALUATION_SHARE * work / (WANTED * cost))
    episodes = min(episodes, max(FEWEST, affordable))
    return Examples(batch, None, episodes * cost, unit, update=update_work, is_at_most=True), episodes


def envs_of(stream: Any) -> VectorEnv:
    """The envs of a stream; of several actors, the first one's."""
    return stream.actors[0].envs if hasattr(stream, "actors") else stream.envs


def action_notes(recipe: Any, stream: Any, model: nn.Module) -> str:
    """What of an environment's actions an agent does not use or hardly reaches, in words."""
    envs, notes = envs_of(stream), []
    if envs.action_mask is not None and not getattr(model, "uses_masks", False):
        notes.append("its action mask is not used")
    log_std = getattr(model, "log_std", None)
    if log_std is not None and isinstance(envs.action_space.low, np.ndarray):
        low, high = envs.action_space.low, envs.action_space.high
        reach = 3 * math.exp(float(log_std.detach().max()))
        is_finite = np.isfinite(low) & np.isfinite(high)
        is_far = (low > reach / 3) | (high < -reach / 3)  # most of what is tried is clipped to one bound
        is_narrow = (high - low < reach / 30) & (high > low)
        is_wide = high - low > 10 * reach
        if is_finite.all() and (is_far | is_narrow | is_wide).any():
            ranges = " and ".join(dict.fromkeys(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True)))
            advice = ",".join([*recipe.wrappers, "UnitAction"])
            notes.append(
                f"its actions are from {ranges}, and the policy begins around 0 with a deviation of "
                f"{reach / 3:g}, clipped to that: --wrappers {advice} stretches -1 to 1 to them"
            )
    return "; ".join(notes)


def make_run(
    model: nn.Module,
    recipe: Any,
    stream: Any,
    update: Callable[[Any], Mapping],
    state: dict[str, Any],
    model_config: dict[str, Any],
    *,
    update_work: float | None = None,
) -> Run:
    """A Run of `recipe.updates` updates, evaluated by the mean return of greedy episodes in separate envs."""
    record_env(recipe.data, recipe.wrappers, recipe.max_episode_steps)
    device = select_device(recipe.device)
    storage = check_rollout_memory(recipe, stream, device)
    limit = envs_of(stream).episode_limit or EPISODE_BOUND
    examples, episodes = examples_of(recipe, limit, update_work)
    side_by_side = SIDE_BY_SIDE if is_own(recipe.data) else None

    def make_evaluator(split: str, episodes: int) -> PolicyEvaluator:
        options = (in_split(recipe.data, split), recipe.wrappers, recipe.max_episode_steps, episodes, device)
        return PolicyEvaluator(*options, num_envs=min(side_by_side, episodes) if side_by_side else None)

    evaluator = make_evaluator("test", recipe.eval_episodes)
    full_validator = evaluator
    if has_splits(recipe.data):
        full_validator = make_evaluator("validation", recipe.eval_episodes)
    is_shorter = episodes < recipe.eval_episodes
    validator = make_evaluator("validation", episodes) if is_shorter else full_validator
    env = {
        "spec": in_split(recipe.data, "test"),
        "wrappers": list(recipe.wrappers),
        "max_episode_steps": recipe.max_episode_steps,
        "episodes": recipe.eval_episodes,
        **({"num_envs": side_by_side} if side_by_side else {}),
        "exact": stream.is_exact,  # whether resuming continues the very episodes that were interrupted
    }
    description = f"{recipe.data} of Gymnasium {version('gymnasium')}"
    if is_own(recipe.data):
        description = f"{recipe.data}, tested on {env['spec']}"
    if text := left_out(recipe.data, tuple(recipe.wrappers)):
        description += f"; text is left out of the observations: {', '.join(text)}"
    if bound := validator.assumed_limit():
        description += f"; it states no time limit, so evaluation cuts episodes after {bound:,} steps"
        description += " (--max-episode-steps N for another limit)"
    if note := action_notes(recipe, stream, model):
        description += f"; {note}"
    if stream.is_exact and envs_of(stream).replays:
        description += "; resuming plays an interrupted episode's actions again from its seed"
    if not stream.is_exact:
        description += "; resuming begins new episodes"
    metadata = {"task": "play", "variant": recipe.variant, "model_config": model_config, "env": env}
    metadata["data"] = description
    if storage:
        metadata["storage"] = storage
    if is_shorter:
        metadata["evaluation"] = (
            f"validation plays {episodes} episodes of at most {limit:,} steps, and at the end "
            f"{recipe.eval_episodes}, as the test does"
        )

    use = application(recipe.data)
    has_goals = use is None and envs_of(stream).goals is not None
    has_success = has_goals and gives_success(recipe.data, tuple(recipe.wrappers))

    def report(folder: Path) -> None:
        if use is not None:
            use.report(model, env, folder, TEST)
        if has_success:
            draw_goals(model, metadata, folder / "goals.png", episodes=recipe.eval_episodes, seed=TEST)
        if not recipe.record_video:
            return
        try:
            play(model, metadata, episodes=1, video=folder / "episode.mp4")
        except Exception as error:  # noqa: BLE001  the training is finished, whatever an env does now
            notify(f"no video of an episode: {error}")

    def validate_all() -> dict[str, float]:
        return full_validator.measure(model, VALIDATION)

    if (tables := known_tables(model, env)) is not None:
        return _run_of_tables(tables, model, recipe, stream, update, state, metadata)
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: validator.measure(model, VALIDATION),
        evaluate_all=validate_all if is_shorter else None,
        best_metric="success_rate" if has_success else "return",
        state={"model": model, **state, "stream": stream},
        steps=recipe.updates,
        examples=examples,
        test=lambda: evaluator.measure(model, TEST, std=True),
        report=report if recipe.record_video or has_success or use is not None else None,
        metadata=metadata,
    )


def _run_of_tables(
    tables: ModuleType,
    model: nn.Module,
    recipe: Any,
    stream: Any,
    update: Callable[[Any], Mapping],
    state: dict[str, Any],
    metadata: dict[str, Any],
) -> Run:
    """A Run whose test is exact, and whose validation simulates patients: the weights are not chosen by the
    tables that test them."""
    batch, patients = recipe.num_envs * getattr(recipe, "num_steps", 1), tables.PATIENTS
    metadata["data"] += f"; its tables are known, those of {tables.TABLES}"
    metadata["evaluation"] = (
        f"validation simulates {patients:,} patients, and the test is exact; off-policy estimates are of "
        f"{tables.CLINICIANS_EPISODES:,} episodes of the clinicians' policy"
    )
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: tables.simulated_return(model, VALIDATION),
        best_metric="return",
        state={"model": model, **state, "stream": stream},
        steps=recipe.updates,
        examples=Examples(batch, None, patients, "environment steps"),
        test=lambda: tables.exact_metrics(model, TEST),
        report=lambda folder: tables.report(model, metadata["env"], folder, TEST),
        metadata=metadata,
    )
