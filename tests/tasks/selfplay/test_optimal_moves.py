"""Moves that keep a game's value: positions in which they differ, and the solver of connect four."""

import pytest
import torch

from torchstone.envs.board_games import LineGame, PerfectPlayer, connect_four, tic_tac_toe
from torchstone.tasks.selfplay import arena, players


class Everything:
    """Says of each column how good it is: the leftmost wins, the others lose."""

    def action_values(self, state):
        legal = connect_four().legal_actions(state)
        values = torch.where(torch.arange(7) == 0, 1.0, -1.0).expand(len(state), 7)
        return values.masked_fill(~legal, -torch.inf)


def test_positions_are_random_and_the_move_matters_in_them():
    game = connect_four()
    states, values = arena.random_positions(game, Everything(), 60)
    assert len(states) == len(values) == 60
    assert int(states[:, 2].min()) >= 8
    assert int(states[:, 2].max()) <= 20
    assert len(states[:, 2].unique()) > 6
    assert not game.outcome(states)[0].any()
    assert arena.matters(values).all()
    again, _ = arena.random_positions(game, Everything(), 60)
    assert torch.equal(states, again)


def test_the_share_is_of_moves_that_keep_the_value():
    values = torch.tensor([[1.0, -1.0, 1.0], [0.0, -1.0, -torch.inf], [-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]])
    actions = torch.tensor([2, 0, 2, 1])
    share = arena.share_of_best(lambda state, generator: actions, torch.zeros(4, 3), values)
    assert share == 0.75


def test_in_a_small_game_all_positions_are_known():
    game = tic_tac_toe()
    states, values = arena.all_positions(game, PerfectPlayer(game))
    assert not game.outcome(states)[0].any()
    assert arena.matters(values).all()
    assert 2000 < len(states) < 4520  # positions that are not over
    assert arena.optimal_moves(game, players.perfect_player(game), 300) == {"optimal_moves": 1.0}
    assert arena.optimal_moves(game, players.random_player(game), 300)["optimal_moves"] < 0.7


@pytest.fixture(scope="module")
def bitbully():
    import bitbully  # noqa: F401  absent, the test fails

    return players.Solver()


def position(columns):
    game = connect_four()
    state = game.initial(1)
    for column in columns:
        state = game.step(state, torch.tensor([column]))
    return state


def test_the_solver_knows_wins_draws_and_losses(bitbully):
    """The first moves of connect four: the center wins, its neighbors draw, the others lose."""
    inner = bitbully.action_values(position([]))[0].tolist()
    assert inner == [-1, -1, 0, 1, 0, -1, -1]
    three = bitbully.action_values(position([3, 0, 3, 0, 3, 1]))[
        0
    ]  # a fourth in the middle column wins at once
    assert three[3] == 1
    full = bitbully.action_values(position([0, 0, 0, 0, 0, 0]))[0]
    assert full[0] == -torch.inf


@pytest.mark.sweep
def test_the_solver_reads_boards_of_either_player(bitbully):
    """The value of a move is minus the best of the answers to it, whoever moves."""
    state = position([3, 3, 2, 4, 1, 0, 5, 5, 4, 2])
    for _ in range(2):
        values = bitbully.action_values(state)[0]
        game = connect_four()
        for column in torch.isfinite(values).nonzero()[:, 0].tolist():
            after = game.step(state, torch.tensor([column]))
            if not bool(game.outcome(after)[0]):
                assert values[column] == -bitbully.action_values(after).amax()
        state = game.step(state, torch.tensor([int(values.argmax())]))


@pytest.mark.sweep
def test_perfect_play_of_connect_four_wins_when_it_begins(bitbully):
    from torchstone.tasks.selfplay.arena import play_match

    game = connect_four()
    returns = play_match(game, players.perfect_player(game), players.playout_player(game, 20), 4, seed=0)
    assert returns[::2].min() == 1
    assert isinstance(game, LineGame)
