"""Training by self-play: the stream of a recipe, its metrics, evaluation against an opponent, and a Run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.engine.device import select_device
from torchstone.engine.run import Examples, Run
from torchstone.envs.self_play import SelfPlay, SelfPlayBatch, SelfPlayConfig
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.tasks.selfplay.arena import elo_difference, play_match, rates
from torchstone.tasks.selfplay.players import make_game, make_opponent, most_visited

__all__ = ["game_metrics", "make_game", "make_run", "make_stream", "minibatches"]

VALIDATION, TEST = 1_000_000, 2_000_000  # seeds of matches, which no run has


def make_stream(recipe: Any, game: Any, model: nn.Module, search: Callable[..., Any]) -> SelfPlay:
    def search_in_eval_mode(*args: Any, **options: Any) -> Any:
        with eval_mode(model):
            return search(*args, **options)

    config = SelfPlayConfig(
        num_games=recipe.num_games,
        num_moves=recipe.num_moves,
        sample_size=recipe.gradient_steps * recipe.batch_size,
        buffer_size=recipe.buffer_size,
        learning_starts=recipe.learning_starts,
        temperature_moves=recipe.temperature_moves,
        random_opening=recipe.random_opening,
        q_weight=recipe.q_weight,
    )
    is_binary = not recipe.data.startswith("openspiel:")
    return SelfPlay(
        game, search_in_eval_mode, config, keeps_trees=recipe.keep_trees, is_binary=is_binary, seed=recipe.seed
    )


def minibatches(batch: SelfPlayBatch, size: int, device: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Observations, policies and values, `size` positions at a time."""
    columns = [each.to(device).split(size) for each in (batch.observation, batch.policy, batch.value)]
    yield from zip(*columns, strict=True)


def game_metrics(batch: SelfPlayBatch) -> dict[str, float]:
    metrics = {"env_steps": float(batch.moves), "games": float(batch.games)}
    if len(batch.returns):
        metrics["game_length"] = batch.lengths.float().mean().item()
        metrics["first_player_score"] = (batch.returns.mean().item() + 1) / 2
    return metrics


def make_run(model, recipe, stream, update, state, model_config, think) -> Run:
    game = make_game(recipe.data)
    opponent = make_opponent(game, recipe.opponent)

    def player(state: Tensor, generator: torch.Generator) -> Tensor:
        return most_visited(think(game, state), generator)

    def match(games: int, seed: int) -> dict[str, float]:
        with eval_mode(model):
            return rates(play_match(game, player, opponent, games, seed=seed))

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: match(recipe.eval_games, VALIDATION),
        state={"model": model, **state, "stream": stream},
        steps=recipe.steps,
        test=lambda: match(recipe.eval_games, TEST),
        metadata={},
    )
