"""Training by self-play: the stream of a recipe, its metrics, evaluation in the arena, and a Run."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor, nn

from torchstone.engine.device import total_memory
from torchstone.engine.run import FORWARDS, Examples, Run
from torchstone.envs.openspiel import PREFIX
from torchstone.envs.self_play import SelfPlay, SelfPlayBatch, SelfPlayConfig
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.tasks.selfplay.arena import EloLadder
from torchstone.tasks.selfplay.inference import Agent, draw_search, match, record_game, test_metrics
from torchstone.tasks.selfplay.players import make_game, make_opponent, opponent_name

__all__ = ["game_metrics", "make_game", "make_run", "make_stream", "minibatches"]

VALIDATION = 1_000_000  # seed of matches, which no run has
VALIDATION_GAMES = 40  # at most, of each match
SHARE = 0.5  # of the memory that there is, for trees and the replay buffer
PLAYOUT = 5  # forward passes of a network that a random play-out takes
NODE_FLOATS = 8  # numbers for each action of a node: statistics, rewards, children


def make_stream(recipe: Any, game: Any, model: nn.Module, search: Callable[..., Any]) -> SelfPlay:
    """
    Args:
        search: states, a generator -> trees, with noise at their roots.

    Raises:
        BadInput: numbers that make no sense together, or a game that is too large for the memory.
    """

    def search_in_eval_mode(*args: Any, **options: Any) -> Any:
        with eval_mode(model):
            return search(*args, **options)

    if recipe.buffer_size < recipe.num_games:
        raise BadInput(
            f"a buffer of {recipe.buffer_size} positions cannot hold one of each of {recipe.num_games} games"
        )
    slots = recipe.buffer_size // recipe.num_games
    if slots * recipe.num_games < recipe.learning_starts:
        raise BadInput(f"learning_starts is {recipe.learning_starts}: the buffer holds {recipe.buffer_size}")
    _check_memory(recipe, game)
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
    is_binary = not recipe.data.startswith(PREFIX)
    return SelfPlay(
        game,
        search_in_eval_mode,
        config,
        keeps_trees=recipe.keep_trees,
        is_binary=is_binary,
        seed=recipe.seed,
    )


def _check_memory(recipe: Any, game: Any) -> None:
    nodes = recipe.num_games * (recipe.num_simulations + 1) * (2 if recipe.keep_trees else 1)
    trees = nodes * game.num_actions * NODE_FLOATS * 4
    position = (
        math.prod(game.observation_shape) * (4 if recipe.data.startswith(PREFIX) else 1)
        + 4 * game.num_actions
    )
    needed, memory = trees + recipe.buffer_size * position, total_memory(torch.device("cpu"))
    if memory is not None and needed > SHARE * memory:
        raise BadInput(
            f"{game.name} is too large: {game.num_actions} actions and positions of {decimal(position)} take "
            f"{decimal(needed)} for {recipe.num_games} trees and {recipe.buffer_size:,} positions, and there "
            f"are {decimal(memory)} of memory: fewer --num-games, --num-simulations or --buffer-size"
        )


def minibatches(batch: SelfPlayBatch, size: int, device: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Observations, policies and values, `size` positions at a time."""
    columns = [each.to(device).split(size) for each in (batch.observation, batch.policy, batch.value)]
    yield from zip(*columns, strict=True)


def game_metrics(batch: SelfPlayBatch) -> dict[str, float]:
    """Moves and games so far, and of the games that ended before this batch their length, and the score of
    the player who moves first."""
    metrics = {"env_steps": float(batch.moves), "games": float(batch.games)}
    if len(batch.returns):
        metrics["game_length"] = batch.lengths.float().mean().item()
        metrics["first_player_score"] = (batch.returns.mean().item() + 1) / 2
    return metrics


def examples_of(recipe: Any, game: Any, moves_per_update: int) -> Examples:
    """Work in forward passes: a move takes one for each simulation, and so does a move in the arena; a random
    play-out takes as long as several."""
    update = moves_per_update * recipe.num_simulations
    update += FORWARDS * recipe.gradient_steps * recipe.batch_size
    games = min(recipe.eval_games, VALIDATION_GAMES)
    moves = games * min(game.max_game_length, 60)  # one match of half of the moves, one of all
    playouts = opponent_name(game, recipe.opponent).partition(":")[2]
    evaluation = 1.5 * moves * recipe.num_simulations + 0.5 * moves * PLAYOUT * int(playouts or 0)
    return Examples(moves_per_update, None, games, "moves", evaluation, float(update), is_at_most=True)


def make_run(
    model: nn.Module,
    recipe: Any,
    stream: Any,
    update: Callable[[Any], dict],
    state: dict[str, Any],
    model_config: dict[str, Any],
    search: Callable[..., Any],
    *,
    steps: int,
    examples: Examples,
) -> Run:
    """A Run of `steps` updates. Its last weights are used: what is newest plays best against what came
    before, and no opponent is the measure of all.

    Args:
        search: the system's: network, game, states, number of simulations -> trees, without noise.
    """
    record_game(recipe.data)
    game = make_game(recipe.data)
    opponent = opponent_name(game, recipe.opponent)
    make_opponent(game, opponent)  # which may be none, or not be installed
    metadata = {
        "task": "play",
        "variant": recipe.variant,
        "model_config": model_config,
        "game": recipe.data,
        "num_simulations": recipe.num_simulations,
        "c_puct": recipe.c_puct,
        "opponent": opponent,
        "eval_games": recipe.eval_games,
        "eval_positions": recipe.eval_positions,
        "data": f"{game.name}: games against itself; tested against {opponent}",
    }
    agent = Agent(search, model, metadata)  # with a game of its own, which forgets states of its own
    ladder = EloLadder(model)
    games = min(recipe.eval_games, VALIDATION_GAMES)

    def evaluate() -> dict[str, float]:
        elo = ladder.climb(
            lambda network: Agent(search, network, metadata).player(agent.game), agent.game, games, VALIDATION
        )
        return {**match(agent, opponent, games, seed=VALIDATION), "elo": elo}

    def report(folder: Path) -> None:
        draw_search(agent, agent.game.initial(1), folder / "search.png")

    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        state={"model": model, **state, "stream": stream, "ladder": ladder},
        steps=steps,
        examples=examples,
        test=lambda: test_metrics(agent, metadata),
        report=report,
        metadata=metadata,
    )
