"""Shortcuts against their definition, and the naive ResNet's layers against torch's."""

from typing import Any

import pytest
import torch
from torch import nn

from torchstone.errors import BadInput
from torchstone.parts.conv.shortcut import PadShortcut, shortcut
from torchstone.parts.facts import count_parameters
from torchstone.references import resnet
from torchstone.verify import relative_error


@pytest.mark.parametrize(("inputs", "outputs", "side"), [(16, 32, 8), (16, 32, 7), (3, 8, 5)])
def test_shortcut_option_a_subsamples_and_pads(inputs, outputs, side):
    x = torch.randn(2, inputs, side, side)
    said = shortcut(inputs, outputs, 2, "A")(x)
    first = (outputs - inputs) // 2
    count = 0
    assert said.shape == (2, outputs, (side + 1) // 2, (side + 1) // 2)
    for channel in range(outputs):
        for i in range(said.shape[2]):
            for j in range(said.shape[3]):
                old = channel - first
                wanted = x[:, old, 2 * i, 2 * j] if 0 <= old < inputs else torch.zeros(2)
                assert torch.equal(said[:, channel, i, j], wanted)
                count += 1
    print(f"{count} places of {inputs} -> {outputs} channels compared")


def test_shortcut_option_b_projects_every_second_location():
    layer: Any = shortcut(4, 8, 2, "B").double().eval()
    x = torch.randn(2, 4, 6, 6).double()
    weight = layer[0].weight[:, :, 0, 0]
    slow = torch.stack(
        [
            torch.stack([weight @ x[b, :, 2 * i, 2 * j] for i in range(3) for j in range(3)], 1)
            for b in range(2)
        ]
    )
    slow = slow.view(2, 8, 3, 3) / (1 + 1e-5) ** 0.5
    print("projection", relative_error(layer(x), slow))
    assert relative_error(layer(x), slow) < 1e-13


def test_shortcut_identity_and_parameter_counts():
    for option in ("A", "B"):
        assert isinstance(shortcut(16, 16, 1, option), nn.Identity)
    costs = {option: count_parameters(shortcut(16, 32, 2, option)) for option in ("A", "B")}
    print(costs)
    assert costs == {"A": 0, "B": 16 * 32 + 2 * 32}
    with pytest.raises(BadInput, match="cannot narrow 32 channels to 16"):
        PadShortcut(32, 16, 2)


@pytest.mark.parametrize(("kernel", "stride", "edge"), [(7, 2, 3), (3, 1, 1), (3, 2, 1), (1, 2, 0)])
def test_naive_resnet_layers_match_torch(kernel, stride, edge):
    x = torch.randn(2, 3, 9, 9).double()
    layer = nn.Conv2d(3, 4, kernel, stride, edge, bias=False).double()
    norm: Any = nn.BatchNorm2d(3).double()
    norm.running_mean.normal_()
    differences = [relative_error(resnet.convolve(x, layer), layer(x))]
    differences.append(relative_error(resnet.max_pool(x), nn.MaxPool2d(3, 2, 1)(x)))
    for training in (True, False):
        said = resnet.batch_norm(x, norm.train(training))
        differences.append(
            relative_error(
                said,
                nn.functional.batch_norm(
                    x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training
                ),
            )
        )
    print(kernel, stride, edge, differences)
    assert max(differences) < 1e-13
