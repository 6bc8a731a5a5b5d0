"""Inception modules save computation: as accurate as plain convolutions of several times the cost."""

from functools import partial
from typing import Any

from torch import nn

from torchstone.data.vision.dataset import load_images
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.training import train_images
from torchstone.parts.conv.convolution import conv_norm_act
from torchstone.parts.facts import macs, on_meta
from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame
from torchstone.systems.convolutional.googlenet import PUBLISHED, inception

CLAIM = Claim(
    "inception-cheap",
    "Inception modules save computation at equal accuracy.",
    "Szegedy et al. 2014",
    "Four modules of 32 to 64 channels on 4,000 digits of MNIST in 14 × 14, 300 updates of AdamW; and four "
    "plain convolutions of 3 × 3 with batch norm in their stead: of as many channels, which costs more, and "
    "narrower ones of equal cost. Test accuracy and multiply-accumulates.",
    "The plain network of equal cost must do worse, or the cost and not the module is what counts.",
    minutes=1.5,
    seeds=(0, 1, 2, 3, 4),
)
SIZE = 14
TOLERANCE = 0.005  # of accuracy, within which two are equal
# channels of 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection, as in the table of the paper
ROWS = ((8, 8, 12, 4, 8, 4), (8, 12, 16, 4, 8, 8), (12, 16, 24, 4, 8, 8), (16, 16, 32, 4, 8, 8))
WIDTHS = tuple(row[0] + row[2] + row[4] + row[5] for row in ROWS)
NARROW = (15, 20, 26, 32)
STEM = 16
MODULES, WIDE, EQUAL = "inception", "plain, as wide", "plain, as cheap"


def network(widths: tuple[int, ...] | None) -> nn.Module:
    """Modules, or for given widths plain convolutions."""
    layers: list[nn.Module] = [conv_norm_act(1, STEM)]
    inputs = STEM
    for number, (row, outputs) in enumerate(zip(ROWS, widths or WIDTHS, strict=True)):
        if number == 2:
            layers.append(nn.MaxPool2d(2))
        layers.append(inception(PUBLISHED, inputs, row) if widths is None else conv_norm_act(inputs, outputs))
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


NETWORKS = {MODULES: partial(network, None), WIDE: partial(network, WIDTHS), EQUAL: partial(network, NARROW)}


def measure(seed: int) -> Row:
    """Test accuracy and multiply-accumulates of each network."""
    data = load_images("mnist5k", size=SIZE, channels=1)
    row: Row = {}
    for name, make in NETWORKS.items():
        outcome = train_images(make, data, seed=seed, steps=300)
        row[name] = {
            "accuracy": outcome.metrics["test/accuracy"],
            "macs": macs(on_meta(make), (1, 1, SIZE, SIZE)),
        }
    return row


def judge(rows: list[Row]) -> Verdict:
    accuracy = {name: [row[name]["accuracy"] for row in rows] for name in NETWORKS}
    mean = {name: sum(values) / len(rows) for name, values in accuracy.items()}
    to_wide = paired(f"test accuracy, {MODULES} − {WIDE}", accuracy[MODULES], accuracy[WIDE])
    to_equal = paired(f"test accuracy, {MODULES} − {EQUAL}", accuracy[MODULES], accuracy[EQUAL])
    finding = "; ".join(
        f"{name} {mean[name]:.3f} at {rows[0][name]['macs'] / 1e6:.2f} M multiply-accumulates"
        for name in NETWORKS
    )
    tests = [to_wide, to_equal]
    is_cheaper = rows[0][MODULES]["macs"] < 0.7 * rows[0][WIDE]["macs"]
    is_equal = to_wide.margin is not None and to_wide.mean - to_wide.margin > -TOLERANCE
    if not (is_cheaper and is_equal):
        return Verdict("not seen here", finding, tests)
    if to_equal.is_above_zero:
        return Verdict("holds", finding, tests)
    return Verdict("not seen here", f"narrow plain convolutions are as good: {finding}", tests)


def draw(rows: list[Row]) -> Any:
    figure = canvas(5.2, 3.6)
    axes = figure.subplots()
    frame(axes, "test accuracy over multiply-accumulates")
    for color, name in zip(PALETTE, NETWORKS, strict=False):
        x, y = ([row[name][key] for row in rows] for key in ("macs", "accuracy"))
        axes.plot([value / 1e6 for value in x], y, "o", color=color, alpha=0.6, label=name)
        axes.plot(x[0] / 1e6, sum(y) / len(y), "_", ms=18, color=color)
    axes.set_xlabel("million multiply-accumulates an image", fontsize=9)
    axes.set_xlim(left=0)
    axes.legend(**LEGEND)
    return figure
