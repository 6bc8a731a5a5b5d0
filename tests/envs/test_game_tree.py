"""Games of open_spiel as trees: positions and probabilities, and games that do not fit."""

import pyspiel
import pytest

from torchstone.envs import game_tree
from torchstone.envs.game_tree import read_game_tree
from torchstone.errors import BadInput
from torchstone.parts.rl.game_tree import CHANCE, TERMINAL


def test_tree_is_the_game():
    """Every node, by a walk through open_spiel's states beside it."""
    tree, game = read_game_tree("kuhn_poker"), pyspiel.load_game("kuhn_poker")
    waiting, count = [(0, game.new_initial_state())], 0
    while waiting:
        node, state = waiting.pop()
        count += 1
        if state.is_terminal():
            assert tree.player[node] == TERMINAL
            assert tree.returns[node].tolist() == state.returns()
            continue
        if state.is_chance_node():
            assert tree.player[node] == CHANCE
            moves = list(enumerate(state.chance_outcomes()))
            assert tree.chance[node, : len(moves)].tolist() == [p for _, (_, p) in moves]
            following = [(branch, action) for branch, (action, _) in moves]
        else:
            player, info = state.current_player(), int(tree.info_state[node])
            assert (tree.player[node], tree.info_player[info]) == (player, player)
            assert tree.info_names[info] == state.information_state_string()
            assert tree.features[info].tolist() == state.information_state_tensor()
            assert tree.legal[info].nonzero()[:, 0].tolist() == state.legal_actions()
            following = [(action, action) for action in state.legal_actions()]
            assert tree.action_names[info] == ("Pass", "Bet")
        waiting += [(int(tree.child[node, branch]), state.child(action)) for branch, action in following]
    assert count == len(tree.player) == tree.level_ends[-1]
    assert tree.terminal_chance.sum().item() == pytest.approx(5)  # ends of each deal


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        (
            "openspiel:catch",
            "catch.* is a game of 1 player, and an equilibrium is sought between two: kuhn_poker",
        ),
        ("openspiel:kuhn_poker(players=3)", "is a game of 3 players"),
        ("openspiel:kuhn_pocker", "no game 'kuhn_pocker'"),
        ("openspiel:matrix_rps", "move at the same time: write it as turn_based_simultaneous_game"),
        ("openspiel:chess", "in chess.* nothing is hidden: alphazero searches such games"),
        ("openspiel:tiny_bridge_2p", "returns of tiny_bridge_2p.* do not sum to zero"),
    ],
)
def test_games_that_do_not_fit_are_refused_in_one_line(spec, wrong):
    with pytest.raises(BadInput, match=wrong) as caught:
        read_game_tree(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["openspiel:liars_dice", "openspiel:phantom_ttt"])
def test_a_game_with_too_many_positions_is_refused(spec, monkeypatch):
    monkeypatch.setattr(game_tree, "MAX_NODES", 2000)
    with pytest.raises(
        BadInput, match=r"has more than 2,000 positions, too many for a flat tree: kuhn_poker"
    ):
        read_game_tree(spec)


def test_turn_based_forms_of_simultaneous_games_are_read():
    tree = read_game_tree("openspiel:turn_based_simultaneous_game(game=matrix_rps())")
    assert (tree.num_infos, tree.num_actions, len(tree.player)) == (2, 3, 13)
