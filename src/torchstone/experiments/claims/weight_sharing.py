"""Sharing weights over positions saves parameters and helps."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.training import classifier_run, train
from torchstone.parts.facts import count_parameters
from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame
from torchstone.systems.convolutional import lenet5

CLAIM = Claim(
    "weight-sharing",
    "Sharing weights between positions saves parameters, and the network is better for it.",
    "LeCun et al. 1989",
    "4,000 digits of MNIST, 600 updates of AdamW: two layers of 5 × 5 with stride 2, 16 and 32 "
    "channels and a linear "
    "layer, convolutions or with weights of each position's own; and perceptrons of 8 to 512 hidden units. "
    "Parameters and test accuracy.",
    "If positions of their own did as well, locality and not sharing would be what helps.",
    minutes=4,
)
HIDDEN = (8, 32, 128, 512)
TOLERANCE = 0.01  # of accuracy, within which two are equal
CONVOLUTION, LOCAL = "convolution", "weights of each position"


class LocallyConnected(nn.Module):
    """A layer of local fields like a convolution's without padding, with weights of each position's own.

    Args:
        size: side of the input.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, size: int):
        super().__init__()
        self.kernel, self.stride, self.side = kernel, stride, (size - kernel) // stride + 1
        fan_in = inputs * kernel**2
        self.weight = nn.Parameter(torch.randn(self.side**2, outputs, fan_in) * math.sqrt(2 / fan_in))
        self.bias = nn.Parameter(torch.zeros(outputs, self.side, self.side))

    def forward(self, x: Float[Tensor, "batch inputs size size"]) -> Float[Tensor, "batch outputs side side"]:
        patches = F.unfold(x, self.kernel, stride=self.stride)  # (batch, inputs · kernel², positions)
        y = torch.einsum("bip,poi->bop", patches, self.weight)
        return y.unflatten(2, (self.side, self.side)) + self.bias


def local_net() -> nn.Module:
    layers = [LocallyConnected(1, 16, 5, 2, 28), nn.ReLU(), LocallyConnected(16, 32, 5, 2, 12), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def convolutional_net() -> nn.Module:
    first, second = nn.Conv2d(1, 16, 5, stride=2), nn.Conv2d(16, 32, 5, stride=2)
    for layer in (first, second):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)  # ty: ignore[invalid-argument-type]
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def perceptron(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


NETWORKS = {CONVOLUTION: convolutional_net, LOCAL: local_net} | {
    f"{hidden} hidden units": partial(perceptron, hidden) for hidden in HIDDEN
}


def measure(seed: int) -> Row:
    """Parameters and test accuracy of each network."""
    data = load_images("mnist5k", size=28, channels=1)
    optim = OptimConfig(optimizer="adamw", lr=2e-3, weight_decay=0.02, warmup_ratio=0.1)
    recipe = replace(lenet5.Recipe(), seed=seed, steps=600, augment="none", optim=optim)
    row: Row = {}
    for name, make in NETWORKS.items():
        outcome = train(classifier_run(recipe, data, make))
        row[name] = {
            "parameters": count_parameters(outcome.model),
            "accuracy": outcome.metrics["test/accuracy"],
        }
    return row


def judge(rows: list[Row]) -> Verdict:
    accuracy = {name: [row[name]["accuracy"] for row in rows] for name in NETWORKS}
    parameters = {name: rows[0][name]["parameters"] for name in NETWORKS}
    mean = {name: sum(values) / len(rows) for name, values in accuracy.items()}
    best = max((name for name in NETWORKS if name.endswith("units")), key=lambda name: mean[name])
    differences = [
        paired(f"test accuracy, convolution − {LOCAL}", accuracy[CONVOLUTION], accuracy[LOCAL]),
        paired(f"test accuracy, convolution − {best}", accuracy[CONVOLUTION], accuracy[best]),
    ]
    finding = "; ".join(
        f"{name} {mean[name]:.3f} with {parameters[name]:,} parameters" for name in (CONVOLUTION, LOCAL, best)
    )
    is_smaller = parameters[CONVOLUTION] < min(parameters[LOCAL], parameters[best])
    local, dense = differences
    if not (is_smaller and dense.is_above_zero):
        return Verdict("not seen here", finding, differences)
    if local.is_above_zero:
        return Verdict("holds", finding, differences)
    if local.margin is not None and local.mean - local.margin > -TOLERANCE:
        condition = f"parameters are what counts, for it is as good without sharing: {finding}"
        return Verdict("holds only when", condition, differences)
    return Verdict("not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    figure = canvas(5.2, 3.6)
    axes = figure.subplots()
    frame(axes, "test accuracy over parameters")
    for color, name in zip(PALETTE, NETWORKS, strict=False):
        axes.semilogx(
            [row[name]["parameters"] for row in rows],
            [row[name]["accuracy"] for row in rows],
            "o",
            color=color,
            label=name,
        )
    axes.set_xlabel("parameters", fontsize=9)
    axes.legend(**LEGEND)
    return figure
