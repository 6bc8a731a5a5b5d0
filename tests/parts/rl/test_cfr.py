"""CFR and CFR+ against open_spiel's solvers and the published table."""

import pyspiel
import pytest
import torch

from torchstone.envs.game_tree import read_game_tree
from torchstone.parts.rl.cfr import CFR, regret_matching, solve
from torchstone.parts.rl.game_tree import expected_returns, exploitability

# exploitability (NashConv / 2) after so many iterations of open_spiel 2.0.2's solvers
TABLE = {
    ("kuhn_poker", False): {1: 0.458333, 10: 0.068699, 100: 0.008226, 1000: 0.000938, 10_000: 0.000113},
    ("kuhn_poker", True): {1: 0.458333, 10: 0.032687, 100: 0.001194, 1000: 0.000087, 10_000: 0.000010},
    ("leduc_poker", False): {1: 2.373611, 10: 0.888579, 100: 0.095716, 1000: 0.011818, 2000: 0.006849},
    ("leduc_poker", True): {1: 2.373611, 10: 0.610439, 100: 0.013416, 1000: 0.000257, 2000: 0.000085},
}


def measured(spec: str, plus: bool, most: int) -> None:
    solver = CFR(read_game_tree(spec), plus=plus)
    for iterations, expected in TABLE[spec, plus].items():
        if iterations > most:
            break
        solver.step(iterations - solver.iteration)
        found = exploitability(solver.tree, solver.average())
        print(spec, "CFR+" if plus else "CFR", iterations, f"{found:.7f}")
        assert abs(found - expected) <= 1e-6


@pytest.mark.parametrize("plus", [False, True])
def test_exploitability_is_the_published_table(plus):
    measured("kuhn_poker", plus, 100)
    measured("leduc_poker", plus, 10)


@pytest.mark.sweep
@pytest.mark.parametrize(("spec", "plus"), list(TABLE))
def test_exploitability_is_the_whole_published_table(spec, plus):
    measured(spec, plus, 10_000)


def table(tree, policy) -> torch.Tensor:
    found = torch.zeros_like(tree.uniform)
    for info, name in enumerate(tree.info_names):
        for action, probability in policy.get_state_policy(name):
            found[info, action] = probability
    return found


def equal_solver(spec: str, plus: bool, iterations: int) -> None:
    tree, game = read_game_tree(spec), pyspiel.load_game(spec)
    ours, theirs = CFR(tree, plus=plus), (pyspiel.CFRPlusSolver if plus else pyspiel.CFRSolver)(game)
    for _ in range(iterations):
        ours.step()
        theirs.evaluate_and_update_policy()
    assert torch.equal(ours.current, table(tree, theirs.current_policy()))
    assert torch.equal(ours.average(), table(tree, theirs.average_policy()))


@pytest.mark.parametrize("plus", [False, True])
def test_strategies_have_the_bits_of_open_spiels_solver(plus):
    equal_solver("kuhn_poker", plus, 80)


@pytest.mark.sweep
@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("spec", ["leduc_poker", "liars_dice(numdice=1,dice_sides=3)"])
def test_strategies_have_the_bits_of_open_spiels_solver_in_larger_games(spec, plus):
    equal_solver(spec, plus, 200)


def test_regret_matching():
    legal = torch.tensor([[True, True, True], [True, False, True], [True, True, False]])
    regret = torch.tensor([[1.0, 3.0, -2.0], [-1.0, 5.0, -3.0], [0.0, 2.0, 9.0]])
    expected = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    assert torch.equal(regret_matching(regret, legal), expected)


def test_cfr_plus_finds_the_value_of_kuhn_poker():
    tree = read_game_tree("kuhn_poker")
    returns = expected_returns(tree, solve(tree, 200))
    assert returns[0].item() == pytest.approx(-1 / 18, abs=4e-4)
    assert returns.sum().abs().item() < 1e-12
