"""Depthwise separable convolutions keep accuracy at a fraction of the products; time falls less."""

import time
from functools import partial
from typing import Any

import torch
from torch import nn

from torchstone.data.vision.dataset import load_images
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import train_images
from torchstone.parts.conv.convolution import conv_norm_act, depthwise_separable
from torchstone.parts.facts import macs, on_meta

CLAIM = Claim(
    "separable-cheap",
    "Depthwise separable convolutions keep the accuracy at a fraction of the computation.",
    "Howard et al. 2017; Chollet 2016",
    "A first convolution and five layers of 32 to 128 channels on 4,000 digits of MNIST in 14 × 14, 200 "
    "updates of AdamW: full convolutions, or depthwise separable ones. Test accuracy, "
    "multiply-accumulates, and CPU time of one core for 128 images (the median of 15 passes).",
    "Full convolutions so narrow that they cost as much as the separable ones must do worse; and time "
    "must fall as multiply-accumulates do for these to be the measure.",
    minutes=2,
)
SIZE = 14
TOLERANCE = 0.01  # of accuracy, within which two are equal
STRIDES = (1, 2, 1, 2, 1)
WIDTHS = (16, 32, 64, 64, 128, 128)
FULL, SEPARABLE, NARROW = "full", "separable", "full, as cheap"
ARMS: dict[str, tuple[Any, tuple[int, ...]]] = {
    FULL: (conv_norm_act, WIDTHS),
    SEPARABLE: (depthwise_separable, WIDTHS),
    NARROW: (conv_norm_act, (8, 13, 22, 22, 43, 43)),
}


def network(layer: Any, widths: tuple[int, ...]) -> nn.Module:
    layers = [
        layer(inputs, outputs, 3, stride)
        for inputs, outputs, stride in zip(widths, widths[1:], STRIDES, strict=False)
    ]
    first = conv_norm_act(1, widths[0])
    return nn.Sequential(first, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def measure(seed: int) -> Row:
    """Test accuracy, multiply-accumulates and milliseconds of each network; the last differ between runs."""
    data = load_images("mnist5k", size=SIZE, channels=1)
    row: Row = {}
    models: dict[str, nn.Module] = {}
    for name, arm in ARMS.items():
        outcome = train_images(partial(network, *arm), data, seed=seed, steps=200)
        models[name] = outcome.model.eval()
        row[name] = {
            "accuracy": outcome.metrics["test/accuracy"],
            "macs": macs(on_meta(network, *arm), (1, 1, SIZE, SIZE)),
        }
    for name, milliseconds in forward_times(models).items():
        row[name]["milliseconds"] = milliseconds
    return row


@torch.no_grad()
def forward_times(models: dict[str, nn.Module], passes: int = 15) -> dict[str, float]:
    """Median CPU milliseconds of a forward pass of 128 images; the networks take turns."""
    images = torch.randn(128, 1, SIZE, SIZE)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(passes + 1):
        for name, model in models.items():
            began = time.process_time()
            model(images)
            times[name].append(1000 * (time.process_time() - began))
    return {name: sorted(each[1:])[passes // 2] for name, each in times.items()}


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str) -> list[float]:
        return [row[name][key] for row in rows]

    def mean(name: str, key: str) -> float:
        return sum(column(name, key)) / len(rows)

    values = column(SEPARABLE, "accuracy"), column(FULL, "accuracy")
    accuracy_gap = paired("test accuracy, separable − full", *values)
    control = paired(
        "test accuracy, separable − full, as cheap", column(SEPARABLE, "accuracy"), column(NARROW, "accuracy")
    )
    products = rows[0][SEPARABLE]["macs"] / rows[0][FULL]["macs"]
    shares = [row[SEPARABLE]["milliseconds"] / row[FULL]["milliseconds"] for row in rows]
    share = sum(shares) / len(shares)
    slower = paired("share of the time − share of the products", shares, [products] * len(rows))
    figures = ", ".join(f"{name} {mean(name, 'accuracy'):.3f}" for name in ARMS)
    finding = f"with {products:.0%} of the products and {share:.0%} of the time test accuracy is {figures}"
    tests = [accuracy_gap, control, slower]
    if not (accuracy_gap.margin is not None and accuracy_gap.mean - accuracy_gap.margin > -TOLERANCE):
        return Verdict("not seen here", finding, tests)
    if not control.is_above_zero:
        return Verdict("not seen here", f"narrow full convolutions do as well: {finding}", tests)
    if slower.is_above_zero and share > 2 * products:
        return Verdict("holds only when", f"products are counted, not time on a CPU: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    labels = {name: name.replace(", ", ",\n") for name in ARMS}
    panels = {
        title: {labels[name]: [row[name][key] / unit for row in rows] for name in ARMS}
        for title, key, unit in (
            ("test accuracy", "accuracy", 1),
            ("million multiply-accumulates", "macs", 1e6),
            ("CPU milliseconds for 128 images", "milliseconds", 1),
        )
    }
    figure = bars(panels)
    figure.axes[0].set_ylim(min(min(v) for v in panels["test accuracy"].values()) - 0.01, 1)
    return figure
