"""Pooling makes a network less sensitive to shifts; augmentation does more, and neither is invariance."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageSplit, load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import classifier_run, train
from torchstone.systems.convolutional import lenet5
from torchstone.tasks.vision.classify import compute_logits, score

CLAIM = Claim(
    "translation",
    "Pooling makes a convolutional network invariant to small shifts.",
    "LeCun et al. 1998; Azulay and Weiss 2018; Zhang 2019",
    "4,000 digits of MNIST in 32 × 32, 600 updates: two convolutions of 5 × 5 (16 and 32 channels), "
    "each followed by "
    "max pooling, or with stride 2 and no pooling; without augmentation and with shifts by up to 4 "
    "pixels. Test "
    "accuracy over shifts of 0 to 8 pixels, the mean of four directions.",
    "An exact invariance would leave the outputs as they are: measured is how far a shift by one pixel "
    "moves the "
    "probabilities.",
    minutes=6,
)
SHIFTS = (0, 1, 2, 3, 4, 6, 8)
ARMS = {
    "stride": ("stride", "none"),
    "pooling": ("pooling", "none"),
    "stride, augmented": ("stride", "shift4"),
    "pooling, augmented": ("pooling", "shift4"),
}


def make_net(kind: str) -> nn.Module:
    """Both have the same parameters, and maps of the same sides."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32)):
        if kind == "pooling":
            layers += [nn.Conv2d(inputs, outputs, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        else:
            layers += [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 10))


def shift(
    images: UInt8[Tensor, "count channel height width"], right: int, down: int
) -> UInt8[Tensor, "count channel height width"]:
    """Images moved by whole pixels, with empty background behind them."""
    border = max(abs(right), abs(down))
    height, width = images.shape[2:]
    padded = F.pad(images, (border,) * 4)
    return padded[:, :, border - down : border - down + height, border - right : border - right + width]


def measure(seed: int) -> Row:
    """Accuracy at each shift, and the mean total variation of the probabilities by a shift of one pixel."""
    data = load_images("mnist5k", size=32, channels=1)
    test = data.test.take(torch.arange(len(data.test)))
    optim = OptimConfig(optimizer="adamw", lr=2e-3, weight_decay=0.02, warmup_ratio=0.1)
    row: Row = {}
    for name, (kind, augment) in ARMS.items():
        recipe = replace(lenet5.Recipe(), seed=seed, steps=600, augment=augment, optim=optim)
        model = train(classifier_run(recipe, data, partial(make_net, kind))).model

        def logits(right: int, down: int, net: nn.Module = model) -> Tensor:
            return compute_logits(net, ImageSplit(data.test.labels, shift(test, right, down)), data.metadata)

        row[name] = {"accuracy": []}
        for by in SHIFTS:
            directions = ((by, 0), (-by, 0), (0, by), (0, -by)) if by else ((0, 0),)
            each = [score(logits(*d), data.test.labels)["accuracy"] for d in directions]
            row[name]["accuracy"].append(sum(each) / len(each))
        change = logits(1, 0).softmax(1) - logits(0, 0).softmax(1)
        row[name]["change"] = change.abs().sum(1).mean().item() / 2
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, by: int) -> list[float]:
        return [row[name]["accuracy"][SHIFTS.index(by)] for row in rows]

    differences = [
        *(
            paired(
                f"accuracy at a shift of {by}, pooling − stride", column("pooling", by), column("stride", by)
            )
            for by in (2, 4)
        ),
        paired(
            "accuracy at a shift of 4, augmented stride − pooling",
            column("stride, augmented", 4),
            column("pooling", 4),
        ),
    ]
    change = sum(row["pooling"]["change"] for row in rows) / len(rows)
    mean = {name: sum(column(name, 4)) / len(rows) for name in ARMS}
    figures = ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
    finding = (
        f"at a shift of 4 pixels, accuracy {figures}; with pooling one pixel moves {change:.1%} of the "
        "probability"
    )
    if not any(d.is_above_zero for d in differences[:2]):
        return Verdict("not seen here", finding, differences)
    if differences[2].is_above_zero or change > 0.01:
        return Verdict("holds only when", f"less sensitive is meant, not invariant: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name]["accuracy"] for row in rows] for name in ARMS}
    return curves({"test accuracy": lines}, SHIFTS, "shift in pixels", ylim=(0, 1.02))
