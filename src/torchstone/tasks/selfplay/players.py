"""Who plays: at random, perfectly, by a search with random play-outs, or by a network's search.

A player is a function: states of a game `(batch, width)`, a generator -> actions `(batch,)`. Games are known
by the name that a recipe gives. Connect four is solved by bitbully, the extra `solver`, which is under the
AGPL and imported only here.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.envs import board_games
from torchstone.envs.openspiel import PREFIX, OpenSpielGame
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.rl import mcts

VECTORIZED = {"tic_tac_toe": board_games.tic_tac_toe, "connect_four": board_games.connect_four}
Player = Callable[[Tensor, torch.Generator], Tensor]


def is_game(data: str) -> bool:
    """Whether a recipe's data name a game of this room, which may still be one that does not fit."""
    return data in VECTORIZED or data.startswith(PREFIX)


def make_game(data: str) -> Any:
    """`tic_tac_toe` and `connect_four`, on tensors; `openspiel:NAME`, any game of open_spiel that fits.

    Raises:
        BadInput: an unknown game, or one that a search of one known future cannot play.
    """
    if data in VECTORIZED:
        return VECTORIZED[data]()
    if data.startswith(PREFIX):
        return OpenSpielGame(data)
    hint = did_you_mean(data, VECTORIZED)
    raise BadInput(
        f"no game {data!r}: {hint}; games of open_spiel are written e.g. {PREFIX}hex(board_size=5)"
    )


# states, and which of them are terminal -> logits (-∞ where illegal) and values, for the player to move
Outputs = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def search_game(
    game: Any,
    state: Tensor,
    outputs: Outputs,
    num_simulations: int,
    *,
    rule: mcts.Puct,
    root_noise: Callable[[Float[Tensor, "batch action"]], Float[Tensor, "batch action"]] | None = None,
    tree: mcts.Tree | None = None,
) -> mcts.Tree:
    """One tree for each state, none of which may be terminal.

    A value is in the view of the player to move. So what follows an action counts with the opposite sign
    where the other player moves next, and with its own where the same player moves again.

    Args:
        root_noise: priors' logits of the roots -> those with noise.
        tree: trees to go on with.
    """
    logits, value = outputs(state, torch.zeros(len(state), dtype=torch.bool))
    if root_noise is not None:
        logits = root_noise(logits)

    def step(action: Tensor, state: Tensor) -> tuple[mcts.RecurrentOutput, Tensor]:
        player, after = game.player(state), game.step(state, action)
        done, returns = game.outcome(after)
        reward = returns.gather(1, player[:, None])[:, 0]  # 0 until the game is over
        discount = torch.where(done, 0.0, torch.where(game.player(after) == player, 1.0, -1.0))
        logits, value = outputs(after, done)
        return mcts.RecurrentOutput(reward, discount, logits, value), after

    return mcts.search(mcts.RootOutput(logits, value, state), step, num_simulations, rule=rule, tree=tree)


class Solver:
    """
    Raises:
        BadInput: bitbully is not installed; with the command that installs it.
    """

    def __init__(self):
        try:
            import bitbully
        except ModuleNotFoundError as error:
            raise BadInput(
                "perfect play of connect_four needs bitbully: pip install 'torchstone[solver]'"
            ) from error
        self.make_board, self.solver = bitbully.Board, bitbully.BitBully()
        self.game = board_games.connect_four()

    def action_values(self, state: Tensor) -> Float[Tensor, "batch action"]:
        """1, 0 or -1 for the player to move: won, drawn, lost with perfect play; -∞ where illegal.

        The solver's own scores count the moves until the end too: a later win is as good here."""
        values = torch.full((len(state), self.game.num_actions), -torch.inf)
        boards = self.boards(state)
        for row, board in enumerate(boards):
            for column, score in self.solver.score_all_moves(self.make_board(board)).items():
                values[row, column] = (score > 0) - (score < 0)
        return values

    def boards(self, state: Tensor) -> list[list[list[int]]]:
        """Top row first; 1 and 2 are the stones of the first and the second player."""
        own, other = self.game.observe(state).flip(2).long().unbind(1)
        player = self.game.player(state)[:, None, None]
        first = torch.where(player == 0, own, other)
        return (first + 2 * (own + other - first)).tolist()


def choose(weights: Float[Tensor, "batch action"], generator: torch.Generator) -> Int64[Tensor, " batch"]:
    """Actions in proportion to their weights."""
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def random_player(game: Any) -> Player:
    """Legal actions, each as likely."""
    return lambda state, generator: choose(game.legal_actions(state).float(), generator)


@cache
def solved(name: str) -> board_games.PerfectPlayer:
    return board_games.PerfectPlayer(VECTORIZED[name]())


def make_solver(game: Any) -> Any:
    """What gives the exact values of actions by `action_values(states)`.

    Raises:
        BadInput: a game without a solver, or whose solver is not installed.
    """
    if game.name == "tic_tac_toe":
        return solved(game.name)
    if game.name == "connect_four":
        return Solver()
    raise BadInput(f"nothing here plays {game.name} perfectly: that is for tic_tac_toe and connect_four")


def has_solver(game: Any) -> bool:
    if game.name == "connect_four":
        return importlib.util.find_spec("bitbully") is not None
    return game.name == "tic_tac_toe"


def is_best(values: Float[Tensor, "batch action"]) -> Bool[Tensor, "batch action"]:
    return values == values.amax(1, keepdim=True)


def perfect_player(game: Any) -> Player:
    """The actions that keep the game's value, each as likely.

    Raises:
        BadInput: a game without a solver.
    """
    solver = make_solver(game)
    return lambda state, generator: choose(is_best(solver.action_values(state)).float(), generator)


def playout_values(game: Any, state: Tensor, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """The outcome of one game at random from each state, in the view of the player to move there."""
    player, result = game.player(state), torch.zeros(len(state))
    rows, now = torch.arange(len(state)), state
    while len(rows):
        done, returns = game.outcome(now)
        if bool(done.any()):
            ended = rows[done]
            result[ended] = returns[done].gather(1, player[ended, None])[:, 0]
            rows, now = rows[~done], now[~done]
            if not len(rows):
                break
        action = choose(game.legal_actions(now, torch.zeros(len(now), dtype=torch.bool)).float(), generator)
        now = game.step(now, action)
    return result


def playout_player(game: Any, num_simulations: int) -> Player:
    """Tree search without a network: equal priors, and the value of a state is the outcome of one game at
    random from it."""
    rule = mcts.Puct(c_init=2.0, normalize=None)

    def act(state: Tensor, generator: Any) -> Tensor:
        def outputs(now: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
            legal = game.legal_actions(now, done)
            logits = torch.zeros(legal.shape).masked_fill(~legal, -torch.inf)
            return logits, playout_values(game, now, generator)

        return most_visited(search_game(game, state, outputs, num_simulations, rule=rule), generator)

    return act


def most_visited(tree: mcts.Tree, generator: torch.Generator) -> Int64[Tensor, " batch"]:
    return choose((tree.root_visits == tree.root_visits.amax(1, keepdim=True)).float(), generator)


def opponent_name(game: Any, name: str) -> str:
    """What `auto` is: perfect play where the game is as small as tic-tac-toe, else `mcts:100`."""
    if name != "auto":
        return name
    return "perfect" if game.name == "tic_tac_toe" else "mcts:100"


def make_opponent(game: Any, name: str) -> Player:
    """`perfect`, `random`, or `mcts:N`, a search with N random play-outs.

    Raises:
        BadInput: another name, or no perfect play of this game.
    """
    if name == "perfect":
        return perfect_player(game)
    if name == "random":
        return random_player(game)
    kind, _, number = name.partition(":")
    if kind == "mcts" and number.isdigit() and int(number) > 0:
        return playout_player(game, int(number))
    raise BadInput(
        f"no opponent {name!r}: perfect, random, mcts:N with N random play-outs, such as mcts:200, or a run"
    )
