"""What agents that learn from their own experience have around their learning rule: worlds, a network of
the worlds' shapes, judgement by greedy episodes, and a metadata to play by."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.envs.rollouts import Rollout
from torchstone.envs.vector_env import Kind, Worlds, needs
from torchstone.errors import BadInput
from torchstone.parts.rl.returns import successors
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.tasks.rl.evaluate import TEST, VALIDATION, Judge, play, said

PIXELS = (84, 84)


def model_config(recipe: Any, system: str, kind: Kind = "any") -> dict[str, Any]:
    """What a network for the recipe's world is made with: shape of observations, number of actions.

    Raises:
        BadInput: actions that the system cannot choose, frames that the network cannot see.
    """
    observations, actions = needs(recipe.data, kind, system, recipe.wrappers)
    shape, discrete = observations.shape, hasattr(actions, "n")
    if len(shape) == 3 and shape[1:] != PIXELS:
        raise BadInput(
            f"{recipe.data} shows frames of {shape}, and the network sees k × 84 × 84: for Atari add "
            "--wrappers AtariPreprocessing"
        )
    if len(shape) > 3:
        raise BadInput(f"{recipe.data} has observations of {shape}, which no network here takes")
    return {
        "observations": list(shape),
        "actions": int(actions.n if discrete else actions.shape[0]),
        "continuous": not discrete,
    }


def worlds(recipe: Any) -> Worlds:
    """The recipe's worlds to learn in, side by side."""
    options = {"wrappers": recipe.wrappers, "limit": recipe.limit}
    return Worlds(recipe.data, recipe.worlds, seed=recipe.seed, **options)


def apart(recipe: Any) -> list[Worlds]:
    """As many, each by itself."""
    options = {"wrappers": recipe.wrappers, "limit": recipe.limit}
    seeds = (derive_seed(recipe.seed, SeedStream.SEPARATE_ENVS, index) for index in range(recipe.worlds))
    return [Worlds(recipe.data, seed=seed, **options) for seed in seeds]


def on_policy(
    model: nn.Module,
    recipe: Any,
    stream: Any,
    update: Callable[[Any], Mapping],
    state: dict[str, Any],
    model_config: dict[str, Any],
) -> Run:
    """A Run judged by the mean return of greedy episodes, in worlds of its own.

    The recipe states data, wrappers, limit, worlds, episodes, steps, seed, variant, device.
    """
    device = select_device(recipe.device)
    judge = Judge(recipe.data, recipe.wrappers, recipe.limit, recipe.episodes, device)
    world = {
        "spec": recipe.data,
        "wrappers": list(recipe.wrappers),
        "limit": recipe.limit,
        "episodes": recipe.episodes,
        "exact": stream.exact,  # whether resuming goes on in the very episodes that were cut off
    }
    note = f"{recipe.data} of Gymnasium {version('gymnasium')}"
    metadata = {"task": "play", "variant": recipe.variant, "model_config": model_config, "world": world}
    metadata["data"] = note if stream.exact else f"{note}; resuming begins new episodes"

    def report(folder: Path) -> None:
        play(model, metadata, episodes=1, video=folder / "episode.mp4")

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: said(judge(model, VALIDATION)),
        state={"model": model, **state, "stream": stream},
        steps=recipe.steps,
        test=lambda: said(judge(model, TEST), spread=True),
        report=report if recipe.film else None,
        metadata=metadata,
    )


def rows(rollout: Rollout, each: Tensor) -> Tensor:
    """`(time, worlds, …)` as what is drawn into minibatches: a row a step; of a policy that remembers, a
    row a world, its steps in order."""
    return each.flatten(0, 1) if rollout.memory is None else each.transpose(0, 1)


def timed(rollout: Rollout, each: Tensor) -> Tensor:
    """Rows as `(time, worlds, …)` again."""
    if rollout.memory is None:
        return each.unflatten(0, rollout.reward.shape)
    return each.transpose(0, 1)


def asked(rollout: Rollout) -> list[Any]:
    """Rows of what a network's `both` takes: observations, what was valid, and to remember by, where
    episodes begin and what was remembered before."""
    mask = None if rollout.mask is None else rows(rollout, rollout.mask)
    seen: list[Any] = [rows(rollout, rollout.observation), mask]
    if rollout.memory is None:
        return seen
    ended = rollout.terminated | rollout.truncated
    # what ended before the first step is forgotten already
    starts = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]])
    return [*seen, rows(rollout, starts), *(each.transpose(0, 1) for each in rollout.memory)]


@torch.no_grad()
def following(
    model: Any, rollout: Rollout, seen: list[Any], value: Float[Tensor, "time worlds"]
) -> Float[Tensor, "time worlds"]:
    """What the state that each step led to is thought to be worth (see `parts.returns`); `seen` is `asked`."""
    terminated, truncated = rollout.terminated, rollout.truncated
    if rollout.memory is None:
        ahead = model.value(torch.cat([rollout.last, rollout.cuts]))
    else:
        ahead = model.ahead(seen, rollout.last, rollout.cuts, truncated & ~terminated)
    worlds = len(rollout.last)
    return successors(value, ahead[:worlds], ahead[worlds:], terminated, truncated)


def progress(stream_batch: Any) -> dict[str, torch.Tensor | float]:
    """Steps so far of all worlds, and the mean training return of the episodes that ended in this rollout."""
    numbers: dict[str, torch.Tensor | float] = {"frames": float(stream_batch.frames)}
    if stream_batch.returns:
        numbers["episode"] = sum(stream_batch.returns) / len(stream_batch.returns)
    return numbers
