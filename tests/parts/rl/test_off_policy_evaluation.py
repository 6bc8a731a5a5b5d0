"""Off-policy estimates, against plain loops, and against the exact expectation over all episodes."""

import itertools

import pytest
import torch

from torchstone.parts.rl import off_policy_evaluation as ope


def plain(target, behavior, reward, lengths, gamma):
    """All four, episode by episode."""
    ratios, returns, per_decision = [], [], 0.0
    longest = reward.shape[1]
    rho = torch.ones(len(reward), longest, dtype=torch.double)
    for i, length in enumerate(lengths):
        weight, total = 1.0, 0.0
        for t in range(longest):
            if t < length:
                weight *= float(target[i, t] / behavior[i, t])
                total += gamma**t * float(reward[i, t])
                per_decision += gamma**t * weight * float(reward[i, t]) / len(reward)
            rho[i, t] = weight
        ratios.append(weight), returns.append(total)
    products = [r * g for r, g in zip(ratios, returns, strict=True)]
    both = 0.0
    for t in range(longest):
        both += gamma**t * float((rho[:, t] * reward[:, t]).sum() / rho[:, t].sum())
    return {
        "ordinary": sum(products) / len(products),
        "weighted": sum(products) / sum(ratios),
        "per_decision": per_decision,
        "weighted_per_decision": both,
    }


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_estimates_equal_plain_loops(gamma):
    generator = torch.Generator().manual_seed(0)
    target, behavior, reward = torch.rand(3, 7, 5, generator=generator, dtype=torch.double) + 0.1
    lengths = torch.tensor([5, 1, 3, 2, 5, 4, 1])
    is_on = torch.arange(5) < lengths[:, None]
    reward = reward * is_on
    rho = ope.importance_ratios(target, behavior, is_on)
    expected = plain(target, behavior, reward, lengths.tolist(), gamma)
    for name, estimator in ope.ESTIMATORS.items():
        assert float(estimator(rho, reward, gamma)) == pytest.approx(expected[name], abs=1e-12)


def test_ordinary_and_per_decision_are_unbiased():
    """Two steps of two actions: the mean over all episodes by their chance is the target's return."""
    b = torch.tensor([0.25, 0.75], dtype=torch.double)
    pi = torch.tensor([0.9, 0.1], dtype=torch.double)
    reward_of = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.double)  # of a step and its action
    truth = float((pi * reward_of).sum())
    found = dict.fromkeys(("ordinary", "per_decision"), 0.0)
    for actions in itertools.product(range(2), repeat=2):
        index = torch.tensor([actions])
        reward = reward_of[torch.arange(2), index]
        rho = ope.importance_ratios(pi[index], b[index], torch.ones(1, 2, dtype=torch.bool))
        chance = float(b[index].prod())
        for name in found:
            found[name] += chance * float(ope.ESTIMATORS[name](rho, reward))
    assert found == pytest.approx(dict.fromkeys(found, truth), abs=1e-12)


def test_the_same_policy_gives_the_mean_return_and_all_episodes():
    generator = torch.Generator().manual_seed(1)
    p, reward = torch.rand(2, 50, 4, generator=generator, dtype=torch.double) + 0.1
    rho = ope.importance_ratios(p, p, torch.ones(50, 4, dtype=torch.bool))
    for name in ("ordinary", "weighted", "per_decision", "weighted_per_decision"):
        assert float(ope.ESTIMATORS[name](rho, reward)) == pytest.approx(float(reward.sum(1).mean()))
    assert ope.effective_sample_size(rho[:, -1]) == pytest.approx(50)
    weight = torch.zeros(50, dtype=torch.double)
    weight[3] = 2.0
    assert ope.effective_sample_size(weight) == pytest.approx(1)


def test_intervals_cover_the_mean_as_often_as_they_say():
    generator, covered = torch.Generator().manual_seed(2), 0
    for _ in range(60):
        reward = torch.randn(80, 1, generator=generator, dtype=torch.double)
        found = ope.bootstrap(ope.ordinary, torch.ones_like(reward), reward, generator, resamples=150)
        assert found.low <= found.value <= found.high
        covered += found.low <= 0 <= found.high
    assert 50 <= covered <= 60


def test_an_action_that_was_never_taken_is_refused():
    p = torch.tensor([[0.0]], dtype=torch.double)
    with pytest.raises(ValueError, match="probability 0"):
        ope.importance_ratios(p, p, torch.ones(1, 1, dtype=torch.bool))
