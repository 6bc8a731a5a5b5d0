"""What an agent of a game with hidden cards is used for: exact evaluation, matches, a person at the
terminal."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.envs.game_tree import read_game_tree
from torchstone.envs.openspiel import load_game
from torchstone.envs.tree_games import TreeGames, sample_branches
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact
from torchstone.parts.rl.cfr import solve
from torchstone.parts.rl.game_tree import GameTree, expected_returns, exploitability
from torchstone.parts.seeding import derive_generator
from torchstone.tasks.multiagent.poker_words import words_of
from torchstone.tasks.multiagent.train import read_game, strategy_metrics, strategy_of
from torchstone.tasks.selfplay.terminal import Rival

TEST = 3_000_000  # seed of matches, which no run has
EQUILIBRIUM_ITERATIONS = 500  # of CFR+: Leduc poker is exploitable by 0.001 chips then


def evaluate(model: Any, metadata: Mapping[str, Any], data: str, *, held_out: bool) -> dict[str, float]:
    """How far the average strategy is from equilibrium, exactly.

    Raises:
        BadInput: another game than the agent's.
    """
    _check_same_game(metadata["game"], data)
    tree = read_game(data)
    return strategy_metrics(tree, strategy_of(model, tree))


def _check_same_game(own: str, other: str) -> None:
    if own != other and str(load_game(own)) != str(load_game(other)):
        raise BadInput(f"this agent plays {own}, not {other}: train one for that game")


def rival(model: Any, metadata: Mapping[str, Any], *, simulations: int | None = None) -> Rival:
    """This agent, for another run's to play against."""
    return Rival(str(load_game(metadata["game"])), lambda tree: strategy_of(model, tree))


def opponent_strategy(tree: GameTree, game: str, against: str | Rival) -> Float[Tensor, "info action"]:
    """
    Raises:
        BadInput: no such opponent, or an agent of another game.
    """
    if against == "random":
        return tree.uniform
    if against == "equilibrium":
        return solve(tree, EQUILIBRIUM_ITERATIONS)
    if isinstance(against, str):
        raise BadInput(
            f"no opponent {against!r}: random, equilibrium (of {EQUILIBRIUM_ITERATIONS} iterations of CFR+), "
            "or a run"
        )
    own = str(load_game(game))
    if against.game != own:
        raise BadInput(f"this agent plays {own}, and the other one {against.game}: they cannot meet")
    return against.act(tree)


@torch.no_grad()
def play(
    model: Any,
    metadata: Mapping[str, Any],
    *,
    episodes: int = 10,
    against: str | Rival = "random",
    seed: int = TEST,
    simulations: int | None = None,
    picture: str | Path | None = None,
    video: str | Path | None = None,
) -> list[float]:
    """The agent's returns of `episodes` games, every other one from the second seat.

    Args:
        against: `random`, `equilibrium`, or the agent of another run.

    Raises:
        BadInput: no such opponent; an agent of another game.
    """
    _refuse_options(simulations, picture, video)
    tree = read_game_tree(metadata["game"])
    opponent = opponent_strategy(tree, metadata["game"], against)
    own, generator = strategy_of(model, tree), derive_generator(seed, 0, 0)
    games, seat = TreeGames(tree, episodes, generator), torch.arange(episodes) % 2
    returns, is_over = torch.zeros(episodes, dtype=torch.double), torch.zeros(episodes, dtype=torch.bool)
    while not is_over.all():  # games that are over go on anew, uncounted
        info = games.info_state
        is_own = (games.player == seat)[:, None]
        action = sample_branches(torch.where(is_own, own[info], opponent[info]), generator)
        ended = games.step(action, generator)
        fresh = ended.is_over & ~is_over
        returns[fresh] = ended.returns.gather(1, seat[:, None])[fresh, 0]
        is_over |= ended.is_over
    return returns.tolist()


def _refuse_options(simulations: int | None, picture: Any, video: Any) -> None:
    if video is not None:
        raise BadInput("a game of cards has no video")
    if picture is not None:
        raise BadInput("this agent does not search: its strategy is drawn in the run's pictures")
    if simulations is not None:
        raise BadInput("this agent does not search: it plays its average strategy, without simulations")


class CardTable:
    """See `tasks.selfplay.terminal.Table`. The agent moves by its average strategy, at random."""

    def __init__(self, tree: GameTree, strategy: Float[Tensor, "info action"], game: str, seed: int):
        self.tree, self.strategy, self.seed, self.number = tree, strategy, seed, 0
        self.game = load_game(game)
        self.words = words_of(self.game)
        owners = zip(tree.info_player.tolist(), tree.info_names, strict=True)
        self.info = {owner: info for info, owner in enumerate(owners)}

    def begin(self, person: int) -> None:
        self.number, self.person = self.number + 1, person
        self.generator = derive_generator(self.seed, 1, self.number)
        self.state, self.history = self.game.new_initial_state(), []
        self._move_chance()

    def turn(self) -> int | None:
        return None if self.state.is_terminal() else self.state.current_player()

    def view(self) -> str:
        lines = self.words.view(self.state, self.person, self.history)
        return "\n".join([*lines, *self.words.result(self.state, self.person)])

    def moves(self) -> dict[str, int]:
        return {self.words.move(self.state, action): action for action in self.state.legal_actions()}

    def make(self, action: int) -> None:
        seat = self.state.current_player()
        self.history.append((seat, self.words.move(self.state, action)))
        self.state.apply_action(action)
        self._move_chance()

    def reply(self) -> str:
        player = self.state.current_player()
        row = self.strategy[self.info[player, self.state.information_state_string(player)]]
        action = int(sample_branches(row[None], self.generator))
        name = self.words.move(self.state, action)
        self.make(action)
        return name

    def outcome(self) -> float:
        return self.state.returns()[self.person]

    def _move_chance(self) -> None:
        while self.state.is_chance_node():
            outcomes, probabilities = zip(*self.state.chance_outcomes(), strict=True)
            which = sample_branches(torch.tensor([probabilities], dtype=torch.double), self.generator)
            self.history.append((None, str(outcomes[int(which)])))
            self.state.apply_action(outcomes[int(which)])


def table(
    model: Any,
    metadata: Mapping[str, Any],
    *,
    seed: int = TEST,
    simulations: int | None = None,
    picture: str | Path | None = None,
) -> CardTable:
    """The agent's table, for a person."""
    _refuse_options(simulations, picture, None)
    tree = read_game_tree(metadata["game"])
    return CardTable(tree, strategy_of(model, tree), metadata["game"], seed)


def game_facts() -> list[Fact]:
    """What is known of the two games, and CFR+ on them; exploitability is NashConv / 2."""

    def infos(name: str) -> int:
        return read_game_tree(name).num_infos

    def uniform(name: str) -> float:
        tree = read_game_tree(name)
        return exploitability(tree, tree.uniform)

    def solved(name: str, iterations: int) -> float:
        tree = read_game_tree(name)
        return exploitability(tree, solve(tree, iterations))

    def value() -> float:
        tree = read_game_tree("kuhn_poker")
        return expected_returns(tree, solve(tree, 200))[0].item()

    figures = {"kuhn_poker": (12, 0.458333, 0.032687), "leduc_poker": (936, 2.373611, 0.610439)}
    facts = [Fact("kuhn_poker value of the game", value, -1 / 18, 4e-4)]
    for name, (count, at_random, after_ten) in figures.items():
        facts += [
            Fact(f"{name} information states", partial(infos, name), count),
            Fact(f"{name} exploitability of the uniform strategy", partial(uniform, name), at_random, 1e-6),
            Fact(f"{name} exploitability after 10 of CFR+", partial(solved, name, 10), after_ten, 1e-6),
        ]
    return facts
