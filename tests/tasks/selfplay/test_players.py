"""Players by name, and random play-outs."""

import pytest
import torch

from torchstone.envs.board_games import tic_tac_toe
from torchstone.errors import BadInput
from torchstone.tasks.selfplay import players

GENERATOR = torch.Generator().manual_seed(0)


def after(game, *actions):
    state = game.initial(1)
    for action in actions:
        state = game.step(state, torch.tensor([action]))
    return state


def test_games_by_name():
    assert players.make_game("connect_four").name == "connect_four"
    assert players.make_game("openspiel:hex(board_size=3)").name == "openspiel:hex(board_size=3)"
    with pytest.raises(BadInput, match=r"no game 'chess': .*openspiel:hex"):
        players.make_game("chess")


def test_perfect_play_holds_the_draw_and_takes_the_win():
    game = tic_tac_toe()
    perfect = players.perfect_player(game)
    assert {int(perfect(after(game, 0), GENERATOR)) for _ in range(8)} == {4}
    assert int(perfect(after(game, 0, 3, 1, 4), GENERATOR)) == 2
    firsts = perfect(game.initial(400), GENERATOR)
    assert len(firsts.unique()) == 9  # all first moves draw, and each is tried


def test_a_playout_is_in_the_view_of_the_player_to_move():
    game = tic_tac_toe()
    won = after(game, 0, 3, 1, 4, 2)  # over: the second player is to move, and has lost
    assert players.playout_values(game, won, GENERATOR).tolist() == [-1.0]
    # one cell is free, and the first player makes a line by taking it
    last = after(game, 0, 1, 2, 4, 3, 5, 7, 6)
    assert players.playout_values(game, last, GENERATOR).tolist() == [0.0]
    values = players.playout_values(game, game.initial(2000), GENERATOR)
    assert 0.2 < values.mean() < 0.4  # 0.585 won, 0.127 drawn, 0.288 lost at random


def test_a_search_of_playouts_wins_in_one():
    game = tic_tac_toe()
    act = players.playout_player(game, 60)
    assert int(act(after(game, 0, 3, 1, 4), GENERATOR)) == 2
    assert int(act(after(game, 8, 0, 5, 1, 6), GENERATOR)) == 2


def test_auto_is_perfect_only_where_the_game_is_small():
    assert players.opponent_name(tic_tac_toe(), "auto") == "perfect"
    assert players.opponent_name(players.make_game("connect_four"), "auto") == "mcts:100"
    assert players.opponent_name(tic_tac_toe(), "random") == "random"


def test_a_missing_solver_is_said_in_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitbully", None)
    game = players.make_game("connect_four")
    with pytest.raises(BadInput, match=r"needs bitbully: pip install 'torchstone\[solver\]'"):
        players.make_opponent(game, "perfect")
