"""The counters themselves, against counts by hand."""

import pytest
import torch
from torch import nn

from torchstone.parts.ema import make_ema
from torchstone.parts.facts import count_parameters, example, macs


def test_count_parameters_tied_once_frozen_not():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
    assert count_parameters(model) == 3 * 4 + 4 + 2 * 4 + 16
    model.append(nn.Linear(4, 4, bias=False))
    model[3].weight = model[2].weight
    assert count_parameters(model) == 3 * 4 + 4 + 2 * 4 + 16
    model[0].bias.requires_grad_(False)
    assert count_parameters(model) == 3 * 4 + 2 * 4 + 16


def test_macs_are_half_of_flops():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    model.train()
    assert macs(model, (1, 2, 6, 6)) == 3 * 4 * 4 * 2 * 9 + 48 * 5
    assert model.training


@pytest.mark.parametrize("make", [nn.RNN, nn.LSTM, nn.GRU])
def test_macs_count_fused_recurrent_layers(make):
    """Two products a moment, of as many gates as their matrices have rows; on the next layer wider ones."""
    model = make(5, 8, 2, bidirectional=True, batch_first=True)
    matrices = sum(p.numel() for name, p in model.named_parameters() if "weight" in name)
    assert macs(model, (3, 7, 5)) == 3 * 7 * matrices


def test_ema_equals_recursion():
    model = nn.Linear(1, 1, bias=False).double()
    kept, expected = make_ema(model, 0.75), None
    for value in (1.0, 2.0, 5.0):
        with torch.no_grad():
            model.weight.fill_(value)
        kept.update_parameters(model)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    assert float(kept.module.weight) == expected


class Pairwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 3)
        self.out = nn.Linear(3, 5)

    def forward(self, source, target, mask=None):
        return self.out(self.words(source) + self.words(target))


def test_example_inputs_fit_the_network():
    (picture,) = example(nn.Conv2d(2, 3, 1).double(), (2, 6, 6), 4)
    assert picture.shape == (4, 2, 6, 6)
    assert picture.dtype == torch.float64
    model = Pairwise()
    source, target = example(model, (11,), 2)
    assert source.shape == target.shape == (2, 11)
    assert source.dtype == torch.int64
    assert macs(model, (2, 11)) == 2 * 11 * 3 * 5


@pytest.mark.parametrize("training", [True, False])
def test_macs_leave_mode_and_statistics(training):
    """Running statistics must not see the zeros that are counted with, nor a batch of one be refused."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train(training)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    assert macs(model, (1, 3)) == 12
    print(model.training, [each.training for each in model], model[1].running_mean)
    assert [model.training, *(each.training for each in model)] == [training] * 3
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
