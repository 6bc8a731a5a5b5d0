"""Shortcuts let very deep networks train; at twenty layers a plain network does as well."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import classifier_run, train
from torchstone.systems.convolutional import resnet
from torchstone.systems.convolutional.resnet import BasicBlock, ResNet

CLAIM = Claim(
    "residual-depth",
    "Shortcuts make very deep networks trainable.",
    "He et al. 2015; He et al. 2016",
    "ResNets for CIFAR of 20, 56 and 110 layers, a quarter as wide, on digits of 8 × 8, and the same "
    "networks without shortcuts; batch norm in both; 150 updates of SGD. Training loss over the last 20 "
    "updates and test accuracy.",
    "At 20 layers the plain network must train as well: then depth is what the shortcuts are for.",
    minutes=2,
)
LAYERS = (20, 56, 110)
STEPS, LAST = 150, 20
TOLERANCE = 0.03  # of accuracy, within which two are equal


class PlainBlock(nn.Module):
    """Two 3×3 convolutions with their norms, without the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.outputs = width
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b width h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)), inplace=True)


BLOCKS: dict[str, Any] = {"shortcuts": partial(BasicBlock, option="A"), "plain": PlainBlock}


def network(block: Any, layers: int) -> nn.Module:
    depths = (layers // 6,) * 3
    return ResNet(block, depths, widths=(4, 8, 16), stem="cifar", num_classes=10, channels=1)


def measure(seed: int) -> Row:
    """Training loss and test accuracy of each network at each depth."""
    data = load_images("digits", size=8, channels=1)
    optim = OptimConfig(optimizer="sgd", lr=0.1, weight_decay=5e-4, warmup_ratio=0.1)
    recipe = replace(
        resnet.Recipe(),
        data="digits",
        size=8,
        seed=seed,
        steps=STEPS,
        batch_size=32,
        augment="none",
        optim=optim,
    )
    row: Row = {name: {"loss": [], "accuracy": []} for name in BLOCKS}
    for name, block in BLOCKS.items():
        for layers in LAYERS:
            outcome = train(classifier_run(recipe, data, partial(network, block, layers)))
            row[name]["loss"].append(sum(outcome.losses[-LAST:]) / LAST)
            row[name]["accuracy"].append(outcome.metrics.get("test/accuracy", 0.1))
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str, i: int) -> list[float]:
        return [row[name][key][i] for row in rows]

    def average(name: str, i: int) -> float:
        return sum(column(name, "accuracy", i)) / len(rows)

    losses = [
        paired(
            f"training loss, {n} layers, plain − shortcuts",
            column("plain", "loss", i),
            column("shortcuts", "loss", i),
        )
        for i, n in enumerate(LAYERS)
    ]
    accuracies = [
        paired(
            f"test accuracy, {n} layers, shortcuts − plain",
            column("shortcuts", "accuracy", i),
            column("plain", "accuracy", i),
        )
        for i, n in enumerate(LAYERS)
    ]
    finding = "test accuracy " + "; ".join(
        f"of {n} layers {average('shortcuts', i):.3f} with shortcuts, {average('plain', i):.3f} without"
        for i, n in enumerate(LAYERS)
    )
    helps = [a.is_above_zero and b.is_above_zero for a, b in zip(losses, accuracies, strict=True)]
    if not helps[-1]:
        return Verdict("not seen here", finding, losses + accuracies)
    if accuracies[0].mean > TOLERANCE:
        return Verdict("holds", f"already at {LAYERS[0]} layers: {finding}", losses + accuracies)
    deep = next(n for n, does in zip(LAYERS, helps, strict=True) if does)
    return Verdict("holds only when", f"there are {deep} layers: {finding}", losses + accuracies)


def draw(rows: list[Row]) -> Any:
    panels = {
        "training loss": {name: [row[name]["loss"] for row in rows] for name in BLOCKS},
        "test accuracy": {name: [row[name]["accuracy"] for row in rows] for name in BLOCKS},
    }
    return curves(panels, LAYERS, "layers")
