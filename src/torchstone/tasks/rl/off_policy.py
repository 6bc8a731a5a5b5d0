"""What agents that learn from what they remember have around their learning rule."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.envs.replay_buffer import Replay, Rows
from torchstone.envs.replay_stream import Drawn, Experience, Priorities
from torchstone.errors import BadInput
from torchstone.parts.rl.exploration import falling
from torchstone.tasks.rl import on_policy


def experience(recipe: Any, explorer: Any, model_config: dict[str, Any], *, scale: Any = None) -> Experience:
    """The recipe's worlds, memory, and what is drawn out of it.

    The recipe states what `on_policy.worlds` asks for, and memory, first, length, gradients, batch, gamma;
    n, clip, alpha and beta if it has them.

    Raises:
        BadInput: a number that makes no sense.
    """
    for name in ("length", "gradients", "batch_size", "steps"):
        if getattr(recipe, name) < 1:
            raise BadInput(f"{name} must be at least 1, not {getattr(recipe, name)}")
    n, alpha = getattr(recipe, "n", 1), getattr(recipe, "alpha", 0.0)
    if n < 1:
        raise BadInput(f"n, the steps a target looks ahead, must be at least 1, not {n}")
    if recipe.memory < recipe.length * recipe.worlds:
        raise BadInput(
            f"a memory of {recipe.memory} steps cannot hold the {recipe.length} × {recipe.worlds} "
            "that are played between updates"
        )
    worlds = on_policy.worlds(recipe)
    continuous = model_config["continuous"]
    action = torch.zeros(model_config["actions"]) if continuous else torch.zeros((), dtype=torch.int64)
    shape = worlds.observation.shape[1:]
    memory = Replay(
        recipe.memory,
        recipe.worlds,
        tuple(shape),
        worlds.observation.dtype,
        action,
        stacked=any(name.startswith("AtariPreprocessing") for name in recipe.wrappers),
        device=select_device(recipe.device),
    )
    return Experience(
        explorer,
        worlds,
        memory,
        length=recipe.length,
        count=recipe.gradients * recipe.batch_size,
        first=recipe.first,
        gamma=recipe.gamma,
        n=n,
        clip=getattr(recipe, "clip", False),
        scale=scale,
        priorities=Priorities(memory.total, alpha) if alpha else None,
        beta=falling(recipe.beta, 1.0, recipe.steps) if alpha else None,
        seed=recipe.seed,
    )


def off_policy(
    model: nn.Module,
    recipe: Any,
    stream: Experience,
    update: Callable[[Drawn], Mapping],
    state: dict[str, Any],
    model_config: dict[str, Any],
) -> Run:
    """`on_policy.on_policy`'s Run, which keeps a large memory beside its checkpoints."""
    run = on_policy.on_policy(model, recipe, stream, update, state, model_config)
    stream.memory.beside(lambda: run.folder)
    return run


def minibatches(drawn: Drawn, size: int) -> Iterator[tuple[Rows, Tensor | None]]:
    """Rows and their weights, `size` at a time; without weights None."""
    columns = [*drawn.rows, drawn.weight]
    count = len(drawn.index) // size
    parts = [[None] * count if c is None else c.split(size) for c in columns]
    for *row, weight in zip(*parts, strict=True):
        yield Rows(*row), weight
