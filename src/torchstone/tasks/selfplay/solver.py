"""The share of moves that keep a game's value by exact play; and the solver of connect four, bitbully.

The package is the extra `solver`, under the AGPL, and is imported only here.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.envs.board_games import LineGame, PerfectPlayer, connect_four, positions_by_ply
from torchstone.errors import BadInput
from torchstone.parts.seeding import derive_generator
from torchstone.tasks.selfplay.players import Player, choose, is_best, make_solver

PLIES = (8, 20)  # of the positions that are asked about


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
        self.game = connect_four()

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


def matters(values: Float[Tensor, "batch action"]) -> Bool[Tensor, " batch"]:
    """Whether some legal action does not keep the value."""
    return (torch.isfinite(values) & ~is_best(values)).any(1)


def random_positions(
    game: LineGame, solver: Any, count: int, *, seed: int = 0, plies: tuple[int, int] = PLIES
) -> tuple[Tensor, Float[Tensor, "batch action"]]:
    """Positions after `plies` random moves in which the move matters, and the values of their actions."""
    generator = derive_generator(seed, 0, 0)
    states, all_values = [], []
    found = 0
    while found < count:
        wanted = torch.randint(plies[0], plies[1] + 1, (64,), generator=generator)
        state = game.initial(64)
        for ply in range(plies[1]):
            rows = ((wanted > ply) & ~game.outcome(state)[0]).nonzero()[:, 0]
            if len(rows):
                state[rows] = game.step(
                    state[rows], choose(game.legal_actions(state[rows]).float(), generator)
                )
        state = state[(state[:, 2] == wanted) & ~game.outcome(state)[0]]
        for each in state.split(1):
            values = solver.action_values(each)
            if bool(matters(values)):
                states.append(each)
                all_values.append(values)
                found += 1
            if found == count:
                break
    return torch.cat(states), torch.cat(all_values)


def share_of_best(
    player: Player, state: Tensor, values: Float[Tensor, "batch action"], *, seed: int = 0
) -> float:
    """The share of positions in which the player's action keeps the game's value."""
    action = player(state, derive_generator(seed, 0, 1))
    return is_best(values).gather(1, action[:, None]).float().mean().item()


def all_positions(game: LineGame, solver: PerfectPlayer) -> tuple[Tensor, Float[Tensor, "batch action"]]:
    """All positions of a small game in which the move matters, and the values of their actions."""
    states = torch.cat(positions_by_ply(game, game.num_cells))
    states = states[~game.outcome(states)[0]]
    values = solver.action_values(states)
    return states[matters(values)], values[matters(values)]


def optimal_moves(game: LineGame, player: Player, count: int) -> dict[str, float]:
    """`optimal_moves`, the share of positions in which the player's move keeps the game's value: of `count`
    positions after random moves; of a small game, of so many of all."""
    solver = make_solver(game)
    if isinstance(solver, PerfectPlayer):
        states, values = all_positions(game, solver)
        chosen = torch.randperm(len(states), generator=derive_generator(0, 0, 0))[:count]
        states, values = states[chosen], values[chosen]
    else:
        states, values = random_positions(game, solver, count)
    return {"optimal_moves": share_of_best(player, states, values)}
