"""The picture of a search: which part of the tree it shows."""

import itertools

import torch

from torchstone.envs.board_games import connect_four
from torchstone.parts.rl import mcts
from torchstone.plots.search_tree import CHILDREN, branches, draw_search_tree, place
from torchstone.tasks.selfplay.players import search_game


def searched(simulations):
    game = connect_four()
    weight = torch.linspace(-3, 3, 84 * 8).sin().view(84, 8)

    def outputs(state, done):
        y = game.observe(state).flatten(1) @ weight
        return y[:, 1:].masked_fill(~game.legal_actions(state, done), -torch.inf), y[:, 0].tanh()

    state = game.step(game.initial(1), torch.tensor([3]))
    return game, state, search_game(game, state, outputs, simulations, rule=mcts.Puct(normalize=None))


def test_branches_are_the_most_visited_and_the_line_is_the_expected_one():
    _, _, tree = searched(200)
    root = branches(tree, lambda node, action: f"{action}")
    assert root.visits == 200
    visits = sorted(tree.root_visits[0].tolist(), reverse=True)
    shown = [child.visits for child in root.children]
    assert shown == [v for v in visits[: CHILDREN[0]] if v >= 4]
    line, branch = [], root
    while following := [child for child in branch.children if child.is_expected]:
        assert len(following) == 1
        branch = following[0]
        line.append(int(branch.name))
    assert line == mcts.principal_variation(tree, len(line))[0].tolist()
    assert len(line) >= 3
    first = root.children[0]
    assert first.q == float(tree.root_q[0, int(first.name)])


def test_no_two_nodes_of_a_level_are_in_one_place():
    _, _, tree = searched(200)
    root = branches(tree, lambda node, action: f"{action}")
    width = place(root)
    level = [root]
    while level := [child for branch in level for child in branch.children]:
        places = [child.x for child in level]
        assert all(b - a >= 1 - 1e-9 for a, b in itertools.pairwise(places))
        assert 0 <= min(places) <= max(places) <= width


def test_it_is_drawn(tmp_path):
    game, state, tree = searched(30)
    draw_search_tree(
        tree, lambda node, action: f"${action}", tmp_path / "a.png", "title", board=game.render(state)
    )
    assert (tmp_path / "a.png").stat().st_size > 10_000
