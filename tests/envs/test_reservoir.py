"""Memories: what a reservoir holds is a uniform sample of all that came."""

import pytest
import torch

from torchstone.envs.reservoir import Memory, add_newest, add_uniformly

NUMBER = {"number": torch.zeros(0, dtype=torch.int64)}


def fed(capacity: int, count: int, batches: tuple[int, ...], seed: int) -> Memory:
    """With the numbers 0 to count - 1, in batches of these sizes, again and again."""
    memory, begin, turn = Memory(capacity, NUMBER), 0, 0
    while begin < count:
        end = min(count, begin + batches[turn % len(batches)])
        add_uniformly(memory, {"number": torch.arange(begin, end)}, seed)
        begin, turn = end, turn + 1
    return memory


@pytest.mark.parametrize("batches", [pytest.param((1,), marks=pytest.mark.sweep), (16, 1)])
def test_each_item_is_kept_with_the_same_probability(batches):
    """Kept 6 of 30, from 250 seeds: each number 50 times, with a deviation of √(250 · 0.2 · 0.8) = 6.3."""
    seeds, capacity, count = 250, 6, 30
    counts = torch.zeros(count)
    for seed in range(seeds):
        held = fed(capacity, count, batches, seed).held()["number"]
        assert len(held.unique()) == capacity  # without replacement
        counts += held.bincount(minlength=count)
    p = capacity / count
    chi_squared = ((counts - seeds * p).square() / (seeds * p * (1 - p))).sum().item() * (count - 1) / count
    print("counts", counts.int().tolist(), f"chi-squared {chi_squared:.1f} of {count - 1}")
    assert 10 < chi_squared < 58.3  # 0.1 % beyond


def test_large_batches_are_sampled_uniformly():
    """2,000 of 50,000, in batches far beyond the capacity: 20 bins of 100 each."""
    held = fed(2000, 50_000, (5000, 12_345), 3).held()["number"]
    bins = (held // 2500).bincount(minlength=20)
    chi_squared = ((bins - 100.0).square() / 100 / 0.96).sum().item()
    print("bins", bins.tolist(), f"chi-squared {chi_squared:.1f} of 19")
    assert len(held.unique()) == 2000
    assert 4 < chi_squared < 43.8


def test_samples_are_of_what_is_held():
    memory = fed(8, 100, (9,), 0)
    rows = memory.sample(500, torch.Generator().manual_seed(0))["number"]
    assert set(rows.tolist()) == set(memory.held()["number"].tolist())


def test_state_restores_what_comes_next():
    memory, other = fed(16, 100, (11,), 5), Memory(16, NUMBER)
    other.load_state_dict(memory.state_dict())
    for each in (memory, other):
        add_uniformly(each, {"number": torch.arange(1000, 1100)}, 5)
    assert torch.equal(memory.held()["number"], other.held()["number"])
    assert memory.num_seen == other.num_seen == 200
    few = fed(16, 5, (5,), 0).state_dict()
    assert len(few["columns"]["number"]) == 5  # rows that were never written are not saved


def test_circular_memory_holds_the_newest():
    memory = Memory(5, NUMBER)
    for begin, end in ((0, 3), (3, 7), (7, 20), (20, 22)):
        add_newest(memory, {"number": torch.arange(begin, end)})
        expected = set(range(max(0, end - 5), end))
        assert set(memory.held()["number"].tolist()) == expected
