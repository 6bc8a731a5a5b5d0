"""What all references share: adapters, names, and weights that hide nothing."""

import torch
from torch import nn

from torchstone.references import OutputAdapter, convert_inside, randomize_weights, unwrap_names


def test_output_adapter_converts_output_and_keeps_the_class_name():
    adapter = OutputAdapter(nn.LSTM(2, 3), lambda net, x: net(x)[0])
    assert adapter(torch.randn(4, 1, 2)).shape == (4, 1, 3)
    assert adapter.__name__ == "LSTM"


def test_unwrap_names_and_convert_inside_strip_the_adapter_prefix():
    tensors = {"model.w": torch.ones(1)}
    rename = {"w": "weight"}
    unwrapped = unwrap_names(lambda _, own: {rename[k]: v for k, v in own.items()})(tensors)
    inside = convert_inside(lambda own: {rename[k]: v for k, v in own.items()})(tensors)
    assert list(unwrapped) == ["weight"]
    assert list(inside) == ["model.weight"]


def test_randomize_weights_leaves_no_parameter_trivial():
    make = lambda: nn.Sequential(nn.Linear(400, 300), nn.LayerNorm(300))  # noqa: E731
    torch.manual_seed(0)
    weight, bias = randomize_weights(make())[0].parameters()
    assert abs(float(weight.std()) * 400**0.5 - 1) < 0.02
    assert abs(float(bias.mean()) - 0.5) < 0.2
    norm = randomize_weights(make(), 0.3)[1].weight
    assert abs(float(norm.mean())) < 0.1
    assert abs(float(norm.std()) - 0.3) < 0.05


def test_randomize_weights_adds_noise_of_a_generator():
    first, again = (
        randomize_weights(nn.LayerNorm(300), 0.1, add=True, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(first.weight, again.weight)
    assert abs(float(first.weight.mean()) - 1) < 0.05
    assert abs(float(first.bias.std()) - 0.1) < 0.02
