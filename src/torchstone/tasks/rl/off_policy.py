"""Off-policy agents: the replay stream of a recipe, and minibatches of what it yields."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchstone.engine.device import select_device
from torchstone.envs import atari
from torchstone.envs.hindsight import make_hindsight
from torchstone.envs.make import check_spaces
from torchstone.envs.replay_buffer import ReplayBuffer, Transitions
from torchstone.envs.replay_stream import PrioritizedSampler, ReplayBatch, ReplayConfig, ReplayStream
from torchstone.errors import BadInput
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.tasks.rl import common
from torchstone.tasks.rl.storage import check_replay_memory


def continuous_config(recipe: Any, system: str) -> dict[str, Any]:
    """The arguments of an actor and critic of vectors that match the recipe's environment:
    `common.model_config` and the actions' bounds `low` and `high`.

    Raises:
        BadInput: discrete or unbounded actions, or frames.
    """
    config = common.model_config(recipe, system, "continuous")
    if len(config["observation_shape"]) == 3:
        raise BadInput(f"{recipe.data} has frames as observations, and {system} takes vectors: try ppo")
    _, action_space = check_spaces(recipe.data, "continuous", system, recipe.wrappers)
    bounds = {"low": action_space.low, "high": action_space.high}
    config |= {name: bound.astype(float).tolist() for name, bound in bounds.items()}
    if not all(map(math.isfinite, config["low"] + config["high"])):
        raise BadInput(f"{recipe.data} has unbounded actions, which {system} does not support")
    return config


def make_stream(
    recipe: Any,
    explorer: Any,
    model_config: dict[str, Any],
    *,
    action_scale: Callable[[Tensor], Tensor] | None = None,
    sample_size: int | None = None,
    keep_terminal: bool = False,
) -> ReplayStream:
    """The recipe's envs and replay buffer; `n_step`, `clip_rewards`, `per_alpha`, `per_beta` and `her_k` are
    optional fields.

    Args:
        sample_size: transitions of an update, if not `gradient_steps` × `batch_size`.
        keep_terminal: as of `ReplayBuffer`.

    Raises:
        BadInput: a number that makes no sense.
    """
    for name in ("num_steps", "gradient_steps", "batch_size", "total_timesteps", "n_step"):
        if getattr(recipe, name, 1) < 1:
            raise BadInput(f"{name} must be at least 1, not {getattr(recipe, name)}")
    if recipe.buffer_size < recipe.num_steps * recipe.num_envs:
        raise BadInput(
            f"a replay buffer of {recipe.buffer_size} steps cannot hold the {recipe.num_steps} × "
            f"{recipe.num_envs} that are taken between updates"
        )
    her_k = getattr(recipe, "her_k", 0)
    if her_k < 0:
        raise BadInput(f"her_k is how many goals in hindsight for one of its own, 0 for none, not {her_k}")
    if her_k and recipe.n_step > 1:
        raise BadInput(f"hindsight replay is of single steps: --n-step 1, not {recipe.n_step}")
    envs = common.make_envs(recipe)
    action = torch.zeros((), dtype=torch.int64)
    if model_config["continuous"]:
        action = torch.zeros(model_config["num_actions"])
    device, shape = select_device(recipe.device), tuple(envs.observation.shape[1:])
    # any other wrapper may change what the frames are
    is_atari = {name.split(":")[0] for name in recipe.wrappers} <= set(atari.WRAPPERS)
    is_stacked = is_atari and any(name.startswith("AtariPreprocessing") for name in recipe.wrappers)
    check_replay_memory(recipe, envs.observation[0], shape[0] if is_stacked else 1, device)
    buffer = ReplayBuffer(
        recipe.buffer_size,
        recipe.num_envs,
        shape,
        envs.observation.dtype,
        action,
        is_stacked=is_stacked,
        keep_terminal=keep_terminal or her_k > 0,
        device=device,
    )
    config = ReplayConfig(
        num_steps=recipe.num_steps,
        sample_size=recipe.gradient_steps * recipe.batch_size if sample_size is None else sample_size,
        learning_starts=recipe.learning_starts,
        gamma=recipe.gamma,
        n_step=getattr(recipe, "n_step", 1),
        clip_rewards=getattr(recipe, "clip_rewards", False),
    )
    sampler = None
    if getattr(recipe, "per_alpha", 0.0):
        beta = linear_schedule(recipe.per_beta, 1.0, recipe.updates)
        sampler = PrioritizedSampler(buffer.num_rows, recipe.per_alpha, beta)
    return ReplayStream(
        explorer,
        envs,
        buffer,
        config,
        action_scale=action_scale,
        sampler=sampler,
        hindsight=make_hindsight(envs, buffer, her_k) if her_k else None,
        seed=recipe.seed,
    )


def minibatches(batch: ReplayBatch, size: int) -> Iterator[tuple[Transitions, Tensor | None]]:
    """Transitions and their importance weights (None for none), `size` at a time."""
    columns = [*batch.transitions, batch.weight]
    count = len(batch.index) // size
    parts = [[None] * count if c is None else c.split(size) for c in columns]
    for *row, weight in zip(*parts, strict=True):
        yield Transitions(*row), weight
