"""Matches: whose returns they are, sides, openings, and Elo."""

import math

import pytest
import torch
from torch import nn

from torchstone.envs.board_games import connect_four, tic_tac_toe
from torchstone.tasks.selfplay import arena, players


def lowest(state, generator):
    """The first legal action."""
    return tic_tac_toe().legal_actions(state).float().argmax(1)


def test_returns_are_those_of_the_first_player_named_and_sides_change():
    """Two that take the lowest free cell: who begins wins by the anti-diagonal's 2, 4, 6."""
    assert arena.play_match(tic_tac_toe(), lowest, lowest, 4, seed=0).tolist() == [1, -1, 1, -1]


def test_perfect_play_never_loses():
    game = tic_tac_toe()
    returns = arena.play_match(game, players.perfect_player(game), players.random_player(game), 100, seed=0)
    assert returns.min() == 0
    assert returns.mean() > 0.7
    again = arena.play_match(game, players.perfect_player(game), players.random_player(game), 100, seed=0)
    assert torch.equal(returns, again)


def test_two_games_share_an_opening_with_the_sides_changed():
    game, seen = connect_four(), []

    def watched(state, generator):
        seen.append(state.clone())
        return game.legal_actions(state).float().argmax(1)

    returns = arena.play_match(game, watched, watched, 8, seed=1, opening_moves=2)
    assert seen[0].shape == seen[1].shape
    assert torch.equal(seen[0], seen[1])  # the one's games at the first move, and the other's
    assert len(seen[0].unique(dim=0)) > 1
    assert torch.equal(returns[::2], -returns[1::2])


def test_an_illegal_move_is_no_move():
    def stubborn(state, generator):
        return torch.zeros(len(state), dtype=torch.int64)

    with pytest.raises(ValueError, match="action 0 is illegal"):
        arena.play_match(tic_tac_toe(), stubborn, stubborn, 2, seed=0)


def test_rates_and_elo():
    rates = arena.rates(torch.tensor([1.0, 0.0, 0.0, -1.0, 1.0]))
    assert rates == pytest.approx({"score": 0.6, "win_rate": 0.4, "draw_rate": 0.4, "loss_rate": 0.2})
    assert arena.elo_difference(0.5, 40) == 0
    assert arena.elo_difference(10 / 11, 40) == pytest.approx(400)
    assert arena.elo_difference(1.0, 40) == pytest.approx(400 * math.log10(79))
    assert arena.elo_difference(0.25, 40) == -arena.elo_difference(0.75, 40)


class Strength(nn.Module):
    """Plays perfectly or the lowest action."""

    def __init__(self):
        super().__init__()
        self.register_buffer("is_perfect", torch.tensor(False))


def test_the_ladder_rises_when_the_network_gets_better():
    game, model = tic_tac_toe(), Strength()
    ladder = arena.EloLadder(model)

    def player(network):
        return players.perfect_player(game) if network.is_perfect else players.random_player(game)

    assert ladder.climb(player, game, 40, seed=0) == 0
    assert ladder.climb(player, game, 40, seed=3) == 0  # the same network is no step
    model.is_perfect.fill_(True)
    higher = ladder.climb(player, game, 40, seed=0)
    assert higher > 100
    # both perfect: as strong as before; and a ladder goes on from its state
    other = arena.EloLadder(model)
    other.load_state_dict(ladder.state_dict())
    assert ladder.climb(player, game, 40, seed=0) == other.climb(player, game, 40, seed=0)
