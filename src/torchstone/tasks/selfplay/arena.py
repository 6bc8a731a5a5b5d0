"""The arena: matches of two players, the score of the first, and what a score is in Elo."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.parts.modes import eval_mode
from torchstone.parts.seeding import derive_generator
from torchstone.tasks.selfplay.players import Player, random_player

SELF_PLAY = 0  # number of the source of chance, of an arena's own seed


@torch.no_grad()
def play_match(
    game: Any, first: Player, second: Player, games: int, *, seed: int, opening_moves: int = 0
) -> Float[Tensor, " games"]:
    """The returns of `first`, which begins every other game, all games at a time.

    Args:
        opening_moves: random moves from which a game goes on; two games in a row share them, with the sides
            changed. Two players without chance would play the same game again and again.
    """
    generator = derive_generator(seed, SELF_PLAY, 0)
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
    return returns


def check_legal(game: Any, state: Tensor, action: Int64[Tensor, " batch"]) -> None:
    is_legal = game.legal_actions(state).gather(1, action[:, None])[:, 0]
    if not bool(is_legal.all()):
        index = int((~is_legal).nonzero()[0, 0])
        raise ValueError(
            f"{game.name}: action {int(action[index])} is illegal in\n{game.render(state[[index]])}"
        )


def rates(returns: Float[Tensor, " games"]) -> dict[str, float]:
    """Shares of games won, drawn and lost, and the score: a draw counts half."""
    won, lost = (returns > 0).float().mean().item(), (returns < 0).float().mean().item()
    return {
        "score": (1 + won - lost) / 2,
        "win_rate": won,
        "draw_rate": max(1 - won - lost, 0.0),
        "loss_rate": lost,
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
        if self.climbed:
            with eval_mode(self.model, self.past):
                returns = play_match(
                    game, player(self.model), player(self.past), games, seed=seed, opening_moves=2
                )
            self.elo += elo_difference(rates(returns)["score"], games)
        self.climbed += 1
        self.past.load_state_dict(self.model.state_dict())
        return self.elo

    def state_dict(self) -> dict[str, Any]:
        return {"past": self.past.state_dict(), "elo": self.elo, "climbed": self.climbed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.past.load_state_dict(state["past"])
        self.elo, self.climbed = state["elo"], state["climbed"]
