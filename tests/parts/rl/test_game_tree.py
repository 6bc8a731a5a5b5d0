"""Values and best responses of flat game trees against open_spiel's."""

import pyspiel
import pytest
import torch

from torchstone.envs.game_tree import read_game_tree
from torchstone.parts.rl.game_tree import (
    best_response,
    expected_returns,
    exploitability,
    nash_conv,
    realization_weights,
)

GOOFSPIEL = "goofspiel(imp_info=True,num_cards=3,points_order=descending)"
GAMES = [
    "leduc_poker",
    "liars_dice(numdice=1,dice_sides=3)",
    f"turn_based_simultaneous_game(game={GOOFSPIEL})",
]


def random_strategy(tree, seed: int):
    """Some of it pure, some of it zero."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(tree.legal.shape, generator=generator, dtype=torch.double).pow(4)
    weight = torch.where(weight < 0.05, 0.0, weight) + 1e-12
    weight = weight * tree.legal
    return weight / weight.sum(1, keepdim=True)


def tabular(tree, strategy) -> pyspiel.TabularPolicy:
    """The same strategy as open_spiel's C++ takes it."""
    rows = zip(tree.info_names, strategy.tolist(), tree.legal.tolist(), strict=True)
    return pyspiel.TabularPolicy(
        {
            name: [
                (action, p) for action, (p, is_legal) in enumerate(zip(row, legal, strict=True)) if is_legal
            ]
            for name, row, legal in rows
        }
    )


def compare(spec: str, seeds: range) -> None:
    game, tree = pyspiel.load_game(spec), read_game_tree(spec)
    for seed in seeds:
        strategy = random_strategy(tree, seed)
        theirs = tabular(tree, strategy)
        assert nash_conv(tree, strategy) == pytest.approx(pyspiel.nash_conv(game, theirs), abs=1e-11)
        assert exploitability(tree, strategy) == pytest.approx(
            pyspiel.exploitability(game, theirs), abs=1e-11
        )
        root, policies = game.new_initial_state(), [theirs] * 2
        expected = pyspiel.expected_returns(root, policies, -1, True, 0.0)
        assert expected_returns(tree, strategy).tolist() == pytest.approx(expected, abs=1e-11)
        for player in range(2):
            theirs_best = pyspiel.TabularBestResponse(game, player, theirs)
            assert best_response(tree, strategy, player).value.item() == pytest.approx(
                theirs_best.value(root.history_str()), abs=1e-11
            )


def test_values_and_exploitability_equal_open_spiel_kuhn():
    compare("kuhn_poker", range(20))


@pytest.mark.sweep
@pytest.mark.parametrize("spec", GAMES)
def test_values_and_exploitability_equal_open_spiel(spec):
    compare(spec, range(2))


def test_best_response_is_a_strategy_with_that_value():
    tree = read_game_tree("kuhn_poker")
    strategy = random_strategy(tree, 3)
    for player in range(2):
        best = best_response(tree, strategy, player)
        own = tree.info_player == player
        pure = torch.nn.functional.one_hot(best.action, tree.num_actions).double()
        mixed = torch.where(own[:, None], pure, strategy)
        assert expected_returns(tree, mixed)[player].item() == pytest.approx(best.value.item(), abs=1e-12)


@pytest.mark.parametrize(("spec", "infos", "features", "actions", "uniform"), [
    ("kuhn_poker", 12, 11, 2, 0.458333),
    ("leduc_poker", 936, 30, 3, 2.373611),
])  # fmt: skip
def test_published_facts(spec, infos, features, actions, uniform):
    tree = read_game_tree(spec)
    assert (tree.num_infos, tree.num_actions, tree.features.shape[1]) == (infos, actions, features)
    assert exploitability(tree, tree.uniform) == pytest.approx(uniform, abs=1e-6)


def test_realization_weights_of_sequences_sum_to_their_parents():
    tree = read_game_tree("leduc_poker")
    x = realization_weights(tree, random_strategy(tree, 5))
    table = x[: tree.legal.numel()].view_as(tree.legal)
    assert torch.allclose(table.sum(1), x[tree.parent_sequence], atol=1e-14)
