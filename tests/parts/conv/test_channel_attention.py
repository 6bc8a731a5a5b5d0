"""Attention gates against their equations, number by number."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torchstone.parts.conv.channel_attention import ChannelGate, SpatialGate, SqueezeExcitation
from torchstone.parts.facts import count_parameters
from torchstone.verify import relative_error

SHAPE = (2, 8, 5, 4)


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def mlp(z: list[float], layer, act=lambda a: max(0.0, a)) -> list[float]:
    """W₂ act(W₁ z + b₁) + b₂ with plain numbers."""
    w1, w2 = layer.fc1.weight.flatten(1).tolist(), layer.fc2.weight.flatten(1).tolist()
    b1, b2 = layer.fc1.bias.tolist(), layer.fc2.bias.tolist()
    hidden = [act(sum(w * v for w, v in zip(row, z, strict=True)) + b) for row, b in zip(w1, b1, strict=True)]
    return [sum(w * v for w, v in zip(row, hidden, strict=True)) + b for row, b in zip(w2, b2, strict=True)]


def channel_weights(x, layer, readings) -> torch.Tensor:
    rows = []
    for picture in x:
        sums = [0.0] * x.shape[1]
        for reading in readings:
            said = mlp([reading(channel.flatten().tolist()) for channel in picture], layer)
            sums = [a + b for a, b in zip(sums, said, strict=True)]
        rows.append([sigmoid(a) for a in sums])
    return torch.tensor(rows, dtype=x.dtype)[:, :, None, None]


def mean(values):
    return sum(values) / len(values)


def test_squeeze_excitation_equals_equation():
    layer, x = SqueezeExcitation(8, 2).double(), torch.randn(SHAPE, dtype=torch.float64)
    slow = x * channel_weights(x, layer, [mean])
    print("squeeze-excitation", relative_error(layer(x), slow))
    assert relative_error(layer(x), slow) < 1e-14
    assert count_parameters(layer) == 2 * 8 * 2 + 2 + 8


def test_squeeze_excitation_with_silu():
    layer, x = SqueezeExcitation(8, 2, F.silu).double(), torch.randn(SHAPE, dtype=torch.float64)
    z = x.mean((2, 3)).tolist()
    rows = [[sigmoid(a) for a in mlp(each, layer, lambda a: a * sigmoid(a))] for each in z]
    slow = x * torch.tensor(rows, dtype=x.dtype)[:, :, None, None]
    print("with SiLU", relative_error(layer(x), slow))
    assert relative_error(layer(x), slow) < 1e-14


def test_channel_gate_equals_equation():
    layer, x = ChannelGate(8, 2).double(), torch.randn(SHAPE, dtype=torch.float64)
    slow = x * channel_weights(x, layer, [mean, max])
    print("channel gate", relative_error(layer(x), slow))
    assert relative_error(layer(x), slow) < 1e-14
    assert count_parameters(layer) == 2 * 8 * 2 + 2 + 8


@pytest.mark.parametrize("training", [True, False])
def test_spatial_gate_equals_equation(training):
    layer: Any = SpatialGate(7).double()
    x = torch.randn(SHAPE, dtype=torch.float64)
    layer.bn.weight.data.fill_(0.7)
    layer.bn.bias.data.fill_(-0.2)
    layer.bn.running_mean.fill_(0.3)
    layer.bn.running_var.fill_(2.0)
    weight = layer.conv.weight[0].tolist()
    answers = []
    for picture in x:
        maps = [
            [[f([float(c) for c in picture[:, i, j]]) for j in range(4)] for i in range(5)]
            for f in (max, mean)
        ]
        for i in range(5):
            for j in range(4):
                total = 0.0
                for k in range(2):
                    for a in range(7):
                        for b in range(7):
                            row, column = i + a - 3, j + b - 3
                            if 0 <= row < 5 and 0 <= column < 4:
                                total += weight[k][a][b] * maps[k][row][column]
                answers.append(total)
    if training:
        centre = mean(answers)
        spread = mean([(a - centre) ** 2 for a in answers])
    else:
        centre, spread = 0.3, 2.0
    gate = [sigmoid((a - centre) / math.sqrt(spread + 1e-5) * 0.7 - 0.2) for a in answers]
    slow = x * torch.tensor(gate, dtype=x.dtype).view(2, 1, 5, 4)
    said = layer.train(training)(x)
    print("spatial gate", training, relative_error(said, slow))
    assert relative_error(said, slow) < 1e-13
    assert count_parameters(layer) == 2 * 49 + 2


def test_gate_oracles_detect_swapped_maps_and_second_sigmoid():
    """Planted faults: the oracles above are not blind to them."""
    layer, x = SpatialGate(7).double().eval(), torch.randn(SHAPE, dtype=torch.float64)
    good = layer(x)
    layer.conv.weight.data = layer.conv.weight.data.flip(1)
    print("maps in the other order", relative_error(layer(x), good))
    assert relative_error(layer(x), good) > 1e-3
    gate = ChannelGate(8, 2).double()
    apart_gates = x * channel_weights(x, gate, [mean]) * channel_weights(x, gate, [max])
    print("one sigmoid for each reading", relative_error(gate(x), apart_gates))
    assert relative_error(gate(x), apart_gates) > 1e-3
