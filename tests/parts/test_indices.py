"""Which of many are looked at: evenly spaced ones, and ones of every class."""

import torch

from torchstone.parts.indices import evenly_spaced, spread_over_classes


def test_spread_over_classes_takes_the_classes_in_turn():
    labels = torch.arange(10).repeat_interleave(100)  # ordered by class, as published splits are
    chosen = spread_over_classes(labels, 48)
    print(labels[chosen].tolist(), chosen[:12].tolist())
    assert labels[chosen].tolist() == (list(range(10)) * 5)[:48]
    assert len(set(chosen.tolist())) == 48
    uneven = torch.tensor([0] * 50 + [1] * 2)
    assert uneven[spread_over_classes(uneven, 8)].tolist() == [0, 1, 0, 1, 0, 0]
    assert sorted(spread_over_classes(torch.zeros(5, dtype=torch.int64), 9).tolist()) == [0, 1, 2, 3, 4]
    assert evenly_spaced(100, 3).tolist() == [0, 50, 99]
