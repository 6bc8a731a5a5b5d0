"""Plays of a flat game tree: they come to each position as often as they should."""

import torch

from torchstone.envs.game_tree import read_game_tree
from torchstone.envs.tree_games import TreeGames, sample_branches


def test_branches_come_by_their_probability():
    probability = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]], dtype=torch.double)
    count = 4000
    rows = probability.repeat(count, 1)
    branch = sample_branches(rows, torch.Generator().manual_seed(0)).view(count, 3)
    share = torch.stack([(branch == b).double().mean(0) for b in range(3)], 1)
    assert (share - probability).abs().max() < 4 * 0.5 / count**0.5
    assert (share[probability == 0] == 0).all()


def test_rounding_never_leaves_the_branches():
    """A row that sums to less than 1, or to more, by rounding."""
    probability = torch.tensor([[0.1] * 10 + [0.0]], dtype=torch.double).repeat(50_000, 1)
    branch = sample_branches(probability * (1 - 1e-12), torch.Generator().manual_seed(0))
    assert branch.max() == 9


def test_plays_end_as_often_as_the_tree_says_and_go_on():
    tree, generator = read_game_tree("kuhn_poker"), torch.Generator().manual_seed(0)
    games, total, count = TreeGames(tree, 500, generator), torch.zeros(2, dtype=torch.double), 0
    deals = torch.zeros(tree.num_infos)
    for _ in range(40):
        assert (games.player >= 0).all()  # chance never waits, and nothing is over
        at_root = tree.info_level[games.info_state] == 0
        deals += games.info_state[at_root & (games.player == 0)].bincount(minlength=tree.num_infos)
        action = sample_branches(tree.uniform[games.info_state], generator)
        ended = games.step(action, generator)
        total += ended.returns[ended.is_over].sum(0)
        assert not ended.returns[~ended.is_over].any()
        count += int(ended.is_over.sum())
    first = deals[deals > 0]
    print(f"{count} plays, mean return {(total[0] / count).item():.3f}; deals {first.tolist()}")
    assert len(first) == 3
    assert (first / first.sum() - 1 / 3).abs().max() < 0.03
    assert abs(total[0].item() / count - 1 / 8) < 0.06  # what uniform play is worth
    assert total.sum() == 0


def test_state_restores_the_plays():
    tree = read_game_tree("kuhn_poker")
    games, other = (TreeGames(tree, 20, torch.Generator().manual_seed(seed)) for seed in range(2))
    other.load_state_dict(games.state_dict())
    for each in (games, other):
        each.step(torch.zeros(20, dtype=torch.long), torch.Generator().manual_seed(7))
    assert torch.equal(games.node, other.node)
