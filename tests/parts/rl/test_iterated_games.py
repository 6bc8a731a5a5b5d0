"""Exact values of iterated games against sums over time, in games where positions matter."""

import pytest
import torch

from torchstone.envs.matrix_games import payoff_of
from torchstone.parts.rl.iterated_games import STATES, joint_probabilities, mean_payoffs, visits
from torchstone.references.team_learning import plain_values


@pytest.mark.parametrize("seed", range(4))
def test_values_equal_the_sum_over_steps(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, STATES, generator=generator, dtype=torch.double)
    payoff = torch.randn(2, 2, 2, generator=generator, dtype=torch.double)
    gamma = (0.5, 0.9, 0.96, 0.3)[seed]
    ours = mean_payoffs(logits.sigmoid(), payoff, gamma) / (1 - gamma)
    theirs = torch.stack([plain_values(each, payoff, gamma) for each in logits])
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_positions_matter_in_the_asymmetric_game_alone():
    """A player 2 that takes its own action for the first one: in the symmetric dilemma two of tit-for-tat look
    as well, in the asymmetric one not."""
    tit_for_tat = {
        "matrix:ipd": ([1.0, 1, 0, 1, 0], [1.0, 1, 1, 0, 0]),
        # player 2 cooperates by action 1, so its probability of action 0 is turned around
        "matrix:asymmetric_ipd": ([1.0, 0, 1, 0, 1], [0.0, 0, 0, 1, 1]),
    }
    right = {"matrix:ipd": [-1.0, -1.0], "matrix:asymmetric_ipd": [-1.0, -1.5]}
    for spec, policies in tit_for_tat.items():
        policy = torch.tensor(policies, dtype=torch.double)
        swapped = policy.clone()
        swapped[1, [2, 3]] = policy[1, [3, 2]]
        payoff = payoff_of(spec).double()
        assert mean_payoffs(policy, payoff, 0.9).tolist() == pytest.approx(right[spec], abs=1e-12), spec
        found = mean_payoffs(swapped, payoff, 0.9).tolist()
        assert (found == pytest.approx(right[spec], abs=1e-12)) is (spec == "matrix:ipd"), found


def test_visits_are_shares():
    policy = torch.rand(5, 2, STATES, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    assert torch.allclose(visits(policy, 0.9).sum(1), torch.ones(5, dtype=torch.double))
    assert torch.allclose(joint_probabilities(policy).sum(2), torch.ones(5, STATES, dtype=torch.double))
    # without a future there is the first step alone
    assert torch.allclose(visits(policy, 0.0), joint_probabilities(policy)[:, 0])
