"""What agents of games with hidden cards share: the game's tree, networks over its information states, exact
evaluation, a Run."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data import identity
from torchstone.engine.console import notify
from torchstone.engine.run import Run
from torchstone.envs.game_tree import read_game_tree
from torchstone.envs.openspiel import describe, load_game
from torchstone.parts.rl.game_tree import GameTree, expected_returns, nash_conv


def read_game(spec: str) -> GameTree:
    """The game's tree; whoever listens learns which game it is."""
    tree = read_game_tree(spec)
    identity.record(spec, environment=describe(load_game(spec)))
    return tree


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class InfoStates(NamedTuple):
    """What a network sees of the information states of one player, row by row."""

    features: Float[Tensor, "row feature"]
    legal: Bool[Tensor, "row action"]


def info_states(tree: GameTree, player: int | None, device: Any) -> InfoStates:
    """Those of one player in the order of `tree.rows`, or all of them."""
    own = slice(None) if player is None else tree.info_player == player
    return InfoStates(tree.features[own].to(device), tree.legal[own].to(device))


def at_rows(
    network: nn.Module, features: Float[Tensor, "row feature"], index: Int64[Tensor, " batch"]
) -> Float[Tensor, "batch action"]:
    """The network's outputs at these rows of features. In a small game a minibatch has each of them many times:
    then the network sees each once."""
    if len(features) <= len(index):
        return network(features)[index]
    return network(features[index])


def masked_softmax(
    logits: Float[Tensor, "*batch action"], legal: Bool[Tensor, "*batch action"]
) -> Float[Tensor, "*batch action"]:
    """Probabilities over the legal actions."""
    return logits.masked_fill(~legal, -torch.inf).softmax(-1)


def table_of(networks: Sequence[nn.Module], tree: GameTree) -> Float[Tensor, "info action"]:
    """The outputs of each player's network in its own information states, in double precision."""
    outputs = torch.zeros_like(tree.uniform)
    for player, network in enumerate(networks):
        device = next(network.parameters()).device
        features = info_states(tree, player, device).features
        outputs[tree.info_player == player] = network(features).cpu().double()
    return outputs


def strategy_metrics(tree: GameTree, strategy: Float[Tensor, "info action"]) -> dict[str, float]:
    """How far a strategy is from equilibrium, exactly, and what the first player wins where both follow it."""
    gain = nash_conv(tree, strategy)
    value = expected_returns(tree, strategy)[0].item()
    return {"exploitability": gain / tree.num_players, "nash_conv": gain, "game_value": value}


def make_run(
    model: Any,
    recipe: Any,
    tree: GameTree,
    stream: Any,
    update: Callable[[Any], Mapping],
    state: dict[str, Any],
    model_config: dict[str, Any],
) -> Run:
    """A Run of `recipe.steps` updates, evaluated by how far `model.strategy(tree)` is from equilibrium."""

    def evaluate() -> dict[str, float]:
        return strategy_metrics(tree, model.strategy(tree))

    metadata = {"task": "cards", "variant": recipe.variant, "model_config": model_config}
    metadata["game"] = recipe.data
    metadata["data"] = f"{recipe.data}: {tree.num_infos:,} information states, {len(tree.player):,} positions"
    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        test=evaluate,
        best_metric=None,  # the last: an average strategy goes on to settle
        state={"model": model, **state, "stream": stream},
        steps=recipe.steps,
        metadata=metadata,
    )
