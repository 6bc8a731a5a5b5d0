"""The sum tree against sums, and draws against their chances."""

import numpy as np
import pytest
import torch

from torchstone.parts.rl.sum_tree import SumTree


@pytest.mark.parametrize("count", [1, 2, 5, 64, 100])
def test_sum_tree_find_equals_cumulative_sum(count):
    generator = torch.Generator().manual_seed(count)
    tree, weights = SumTree(count), np.zeros(count)
    for _ in range(20):
        index = torch.randint(count, (7,), generator=generator)
        new = torch.randint(0, 5, (7,), generator=generator).double()  # some 0, sums exact
        tree.set(index, new)
        for i, w in zip(index.tolist(), new.tolist(), strict=True):
            weights[i] = w
        total = weights.sum()
        assert tree.total == total
        if not total:
            continue
        mass = torch.arange(0, total, 0.5, dtype=torch.float64)
        expected = np.searchsorted(np.cumsum(weights), mass.numpy(), side="right")
        assert np.array_equal(tree.find(mass).numpy(), expected)
    print(count, "leaves, last total", total)


def test_sum_tree_find_skips_zero_weights_under_rounding():
    tree = SumTree(8)
    tree.set(torch.tensor([0, 2]), torch.tensor([0.1, 0.2], dtype=torch.float64))
    beyond = torch.tensor([tree.total, tree.total * (1 + 1e-12), 1e9], dtype=torch.float64)
    assert tree.find(beyond).tolist() == [2, 2, 2]


def test_sum_tree_samples_in_proportion_to_weights():
    weights = torch.tensor([1.0, 0.0, 3.0, 6.0, 2.0], dtype=torch.float64)
    tree = SumTree(5)
    tree.set(torch.arange(5), weights)
    generator = torch.Generator().manual_seed(0)
    counts = torch.cat([tree.sample(16, generator) for _ in range(2000)]).bincount(minlength=5)
    expected = weights / weights.sum() * 32000
    print("counts", counts.tolist(), "expected", expected.tolist())
    # strata only make it narrower than the multinomial's √(np(1-p)) ≤ 90
    assert (counts - expected).abs().max() < 4 * 90
    assert counts[1] == 0


def test_sum_tree_restores_bit_exact():
    tree, other = SumTree(37), SumTree(37)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        index = torch.randint(37, (5,), generator=generator)
        tree.set(index, torch.rand(5, generator=generator, dtype=torch.float64))
    other.load_state_dict(tree.state_dict())
    assert torch.equal(tree.nodes, other.nodes)
