"""Truncated normal weights by the width of the network."""

import pytest
import torch
from torch import nn

from torchstone.parts.transformer.initialization import init_truncated_normal


@pytest.mark.parametrize(("width", "linear"), [(768, 0.02), (192, 0.04)])
def test_init_truncated_normal_scales_linear_layers(width, linear):
    torch.manual_seed(0)
    model = nn.ModuleDict({"linear": nn.Linear(200, 200), "table": nn.Embedding(300, 100, padding_idx=3)})
    nn.init.ones_(model["linear"].bias)
    init_truncated_normal(model, width)
    for name, std in (("linear", linear), ("table", 0.02)):
        weight = model[name].weight
        print(
            f"{name} at width {width}: deviation {float(weight.std()):.4f}, largest {float(weight.max()):.4f}"
        )
        # cut at two deviations the normal's is 0.88 of what it was
        assert float(weight.std()) == pytest.approx(0.88 * std, rel=0.03)
        assert float(weight.abs().max()) <= 2 * std
    assert not model["linear"].bias.any()
    assert not model["table"].weight[3].any()
