"""The arena: matches of two players, scores and Elo; and the share of moves that keep a game's value."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.envs.board_games import LineGame, PerfectPlayer, positions_by_ply
from torchstone.parts.modes import eval_mode
from torchstone.parts.seeding import derive_generator
from torchstone.tasks.selfplay.players import Player, choose, is_best, make_solver, random_player

MATCH, POSITIONS, JUDGE = 0, 1, 2  # sources of chance, of an arena's own seed
PLIES = (8, 20)  # of the positions that are asked about


@torch.no_grad()
def play_match(
    game: Any, first: Player, second: Player, games: int, *, seed: int, opening_moves: int = 0
) -> Float[Tensor, " games"]:
    """The returns of `first`, which begins every other game, all games at a time.

    Args:
        opening_moves: random moves from which a game goes on; two games in a row share them, with the sides
            changed. Two players without chance would play the same game again and again.
    """
    generator = derive_generator(seed, MATCH, 0)
    side = torch.arange(games) % 2  # the player, 0 or 1, that `first` is
    state = game.initial(games)
    openings = random_player(game)
    for _ in range(opening_moves):
        after = game.step(state[::2], openings(state[::2], generator))
        done, _ = game.outcome(after)
        even = torch.where(done[:, None], state[::2], after)
        state = even.repeat_interleave(2, 0)[:games]
    returns = torch.zeros(games)
    rows = torch.arange(games)
    while len(rows):
        is_first = game.player(state) == side[rows]
        action = torch.empty(len(rows), dtype=torch.int64)
        for player, mine in ((first, is_first), (second, ~is_first)):
            if bool(mine.any()):
                action[mine] = player(state[mine], generator)
        check_legal(game, state, action)
        state = game.step(state, action)
        done, outcome = game.outcome(state)
        ended = rows[done]
        returns[ended] = outcome[done].gather(1, side[ended, None])[:, 0]
        rows, state = rows[~done], state[~done]
        game.retain(state)
    return returns + 0.0  # no -0


def check_legal(game: Any, state: Tensor, action: Int64[Tensor, " batch"]) -> None:
    is_legal = game.legal_actions(state).gather(1, action[:, None])[:, 0]
    if not bool(is_legal.all()):
        index = int((~is_legal).nonzero()[0, 0])
        raise ValueError(
            f"{game.name}: action {int(action[index])} is illegal in\n{game.render(state[[index]])}"
        )


def rates(returns: Float[Tensor, " games"]) -> dict[str, float]:
    """Shares of games won, draws and lost, and the score: a draw counts half."""
    won, lost, games = int((returns > 0).sum()), int((returns < 0).sum()), len(returns)
    draws = games - won - lost
    return {
        "score": (won + draws / 2) / games,
        "win_rate": won / games,
        "draw_rate": draws / games,
        "loss_rate": lost / games,
    }


def elo_difference(score: float, games: int) -> float:
    """What a score means in Elo: 400 log10(s / (1 - s)); of a match won as if half a game were lost."""
    margin = 0.5 / games
    score = min(max(score, margin), 1 - margin)
    return 400 * math.log10(score / (1 - score))


class EloLadder:
    """A network's Elo on a ladder of its own past: it begins at 0, and gains at each step what the match
    against the network of the step before says.

    Steps of 400 and more are not told apart by a few games, so a rapid rise is underestimated.
    """

    def __init__(self, model: nn.Module):
        self.model, self.past, self.elo, self.climbed = model, copy.deepcopy(model), 0.0, 0

    def climb(self, player: Callable[[nn.Module], Player], game: Any, games: int, seed: int) -> float:
        """The Elo of the network as it is now."""
        now, past = self.model.state_dict(), self.past.state_dict()
        if self.climbed and all(torch.equal(now[name], past[name]) for name in now):
            return self.elo
        if self.climbed:
            with eval_mode(self.model, self.past):
                returns = play_match(
                    game, player(self.model), player(self.past), games, seed=seed, opening_moves=2
                )
            self.elo += elo_difference(rates(returns)["score"], games)
        self.climbed += 1
        self.past.load_state_dict(now)
        return self.elo

    def state_dict(self) -> dict[str, Any]:
        return {"past": self.past.state_dict(), "elo": self.elo, "climbed": self.climbed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.past.load_state_dict(state["past"])
        self.elo, self.climbed = state["elo"], state["climbed"]


def matters(values: Float[Tensor, "batch action"]) -> Bool[Tensor, " batch"]:
    """Whether some legal action does not keep the value."""
    return (torch.isfinite(values) & ~is_best(values)).any(1)


def random_positions(
    game: LineGame, solver: Any, count: int, *, seed: int = 0, plies: tuple[int, int] = PLIES
) -> tuple[Tensor, Float[Tensor, "batch action"]]:
    """Positions after `plies` random moves in which the move matters, and the values of their actions."""
    generator = derive_generator(seed, POSITIONS, 0)
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
    action = player(state, derive_generator(seed, JUDGE, 0))
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
        chosen = torch.randperm(len(states), generator=derive_generator(0, POSITIONS, 0))[:count]
        states, values = states[chosen], values[chosen]
    else:
        states, values = random_positions(game, solver, count)
    return {"optimal_moves": share_of_best(player, states, values)}
