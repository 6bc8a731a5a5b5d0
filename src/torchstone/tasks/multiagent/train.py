"""What agents of games with hidden cards share: the game's tree, networks over its information states, exact
evaluation, a Run."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data import identity
from torchstone.engine.run import Examples, Run
from torchstone.envs.game_tree import read_game_tree
from torchstone.envs.openspiel import describe, load_game
from torchstone.parts.modes import eval_mode
from torchstone.parts.rl.cfr import CFR
from torchstone.parts.rl.game_tree import CHANCE, GameTree, expected_returns, exploitability, nash_conv
from torchstone.plots.curves import read_metrics
from torchstone.plots.strategy_table import draw_exploitability, draw_strategies
from torchstone.tasks.multiagent.poker_words import words_of


def read_game(spec: str) -> GameTree:
    """The game's tree; whoever listens learns which game it is."""
    tree = read_game_tree(spec)
    identity.record(spec, environment=describe(load_game(spec)))
    return tree


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
    """The network's outputs at these rows of features. In a small game a minibatch has each of them many
    times: then the network sees each once."""
    if len(features) <= len(index):
        return network(features)[index]
    return network(features[index])


def masked_softmax(
    logits: Float[Tensor, "*batch action"], legal: Bool[Tensor, "*batch action"]
) -> Float[Tensor, "*batch action"]:
    """Probabilities over the legal actions."""
    return logits.masked_fill(~legal, -torch.inf).softmax(-1)


def table_of(networks: Iterable[nn.Module], tree: GameTree) -> Float[Tensor, "info action"]:
    """The outputs of each player's network in its own information states, in double precision."""
    outputs = torch.zeros_like(tree.uniform)
    for player, network in enumerate(networks):
        device = next(network.parameters()).device
        features = info_states(tree, player, device).features
        outputs[tree.info_player == player] = network(features).cpu().double()
    return outputs


def strategy_of(model: Any, tree: GameTree) -> Float[Tensor, "info action"]:
    """What a run's agent plays: its average strategy."""
    with eval_mode(model):
        return model.strategy(tree)


def strategy_metrics(tree: GameTree, strategy: Float[Tensor, "info action"]) -> dict[str, float]:
    """How far a strategy is from equilibrium, exactly, and what the first player wins where both follow
    it."""
    gain = nash_conv(tree, strategy)
    value = expected_returns(tree, strategy)[0].item()
    return {"exploitability": gain / tree.num_players, "nash_conv": gain, "game_value": value}


SOLVED = (1, 2, 5, 10, 20, 50, 100, 200)  # iterations of CFR+ that are drawn beside a run
MOST_ROWS = 36  # of a picture of strategies


def make_run(
    model: Any,
    recipe: Any,
    tree: GameTree,
    stream: Any,
    update: Callable[[Any], Mapping],
    state: dict[str, Any],
    model_config: dict[str, Any],
    examples: Examples,
) -> Run:
    """A Run of `recipe.steps` updates, evaluated by how far `model.strategy(tree)` is from equilibrium."""

    def evaluate() -> dict[str, float]:
        return strategy_metrics(tree, strategy_of(model, tree))

    metadata = {"task": "cards", "variant": recipe.variant, "model_config": model_config, "game": recipe.data}
    metadata["data"] = f"{recipe.data}: {tree.num_infos:,} information states, {len(tree.player):,} positions"
    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        test=evaluate,
        state={"model": model, **state, "stream": stream},
        steps=recipe.steps,
        examples=examples,
        metadata=metadata,
    )

    def report(folder: Path) -> None:
        curve = [] if run.folder is None else validation_curve(run.folder)
        draw_pictures(tree, strategy_of(model, tree), recipe.data, curve, folder)

    run.report = report
    return run


def validation_curve(run_folder: Path) -> list[tuple[float, float]]:
    """Updates and exploitability of a run's evaluations."""
    rows = [row for row in read_metrics(run_folder) if row["split"] == "val"]
    return [(row["step"], row["exploitability"]) for row in rows]


def draw_pictures(
    tree: GameTree,
    strategy: Float[Tensor, "info action"],
    game: str,
    curve: Sequence[tuple[float, float]],
    folder: Path,
) -> None:
    """The strategy beside an equilibrium of CFR+, where it gets to most often, and exploitability beside
    that of CFR+."""
    solver, solved = CFR(tree, plus=True), []
    for iterations in SOLVED:
        solver.step(iterations - solver.iteration)
        solved.append((iterations, exploitability(tree, solver.average())))
    equilibrium = solver.average()
    # the information states that are reached most, in the order of the game
    words, first = words_of(load_game(game)), {}
    for i in info_reach(tree, equilibrium).argsort(descending=True, stable=True).tolist():
        first.setdefault((int(tree.info_player[i]), words.info_state(tree.info_names[i])), i)
    rows = dict(sorted(list(first.items())[:MOST_ROWS], key=lambda item: (item[0][0], item[1])))
    often = torch.tensor(list(rows.values()))
    names = [f"player {player + 1}, {words}" for player, words in rows]
    labels = [
        [name.split()[-1].lower() if name else "" for name in tree.action_names[i]] for i in often.tolist()
    ]
    both = {"learned": strategy[often], f"CFR+, {SOLVED[-1]} iterations": equilibrium[often]}
    left = len(first) - len(rows)
    title = f"{game}: one equilibrium of several" + (
        f"; {left} rarer information states left out" if left else ""
    )
    draw_strategies(both, names, labels, folder / "strategies.png", title)
    uniform = exploitability(tree, tree.uniform)
    draw_exploitability({"learned": curve, "CFR+": solved}, uniform, folder / "exploitability.png", game)


def info_reach(tree: GameTree, strategy: Float[Tensor, "info action"]) -> Float[Tensor, " info"]:
    """How likely a play gets to each information state."""
    edges, probability = tree.edges, strategy.flatten()[tree.edges.sequence]
    probability = torch.where(edges.player == CHANCE, edges.chance, probability)
    reach = torch.ones_like(probability)
    for begin, end in itertools.pairwise(tree.level_ends):
        reach[begin:end] = reach[edges.parent[begin:end]] * probability[begin:end]
    at = tree.info_state >= 0
    return torch.zeros(tree.num_infos, dtype=reach.dtype).index_add_(0, tree.info_state[at], reach[at])
