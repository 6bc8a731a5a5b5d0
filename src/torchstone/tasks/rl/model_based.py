"""Agents that plan with a model which they learn: the stream of a recipe, and minibatches of its batches."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchstone.envs.search_stream import SearchStream, SearchStreamConfig, UnrolledBatch
from torchstone.errors import BadInput
from torchstone.tasks.rl.common import make_envs
from torchstone.tasks.rl.storage import check_replay_memory


def make_stream(
    recipe: Any,
    search: Callable[..., Any],
    value: Callable[[Tensor], Tensor],
    temperature: Callable[[int], float],
    num_actions: int,
    envs: Any = None,
) -> SearchStream:
    """
    Raises:
        BadInput: numbers that make no sense together.
    """
    envs = make_envs(recipe) if envs is None else envs
    horizon = recipe.unroll_steps + recipe.n_step
    slots = recipe.buffer_size // recipe.num_envs
    if slots <= horizon + recipe.num_steps or recipe.buffer_size < recipe.learning_starts:
        raise BadInput(
            f"a replay buffer of {recipe.buffer_size} steps is too small: it must hold learning_starts, "
            f"{recipe.learning_starts}, and num_envs × (unroll_steps + n_step + num_steps + 1), "
            f"{recipe.num_envs * (horizon + recipe.num_steps + 1)}"
        )
    check_replay_memory(recipe, envs.observation[0], 1, torch.device("cpu"))
    config = SearchStreamConfig(
        num_steps=recipe.num_steps,
        sample_size=recipe.gradient_steps * recipe.batch_size,
        learning_starts=recipe.learning_starts,
        buffer_size=recipe.buffer_size,
        unroll_steps=recipe.unroll_steps,
        n_step=recipe.n_step,
        gamma=recipe.gamma,
        reanalyse=recipe.reanalyse,
    )
    return SearchStream(envs, search, value, temperature, num_actions, config, seed=recipe.seed)


def minibatches(batch: UnrolledBatch, size: int, device: Any) -> Iterator[UnrolledBatch]:
    """`size` positions at a time."""
    columns = {name: x.to(device).split(size) for name, x in batch._asdict().items() if isinstance(x, Tensor)}
    for rows in zip(*columns.values(), strict=True):
        yield batch._replace(**dict(zip(columns, rows, strict=True)))


def rollout_metrics(batch: UnrolledBatch) -> dict[str, float]:
    """Of a board game: moves so far, and the score of the player who moves first, in the games that ended
    before this batch."""
    metrics = {"env_steps": float(batch.env_steps)}
    if batch.returns:
        metrics["first_player_score"] = (sum(batch.returns) / len(batch.returns) + 1) / 2
    return metrics
