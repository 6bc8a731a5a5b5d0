"""Small kernels in depth beat large kernels in width, at equal parameters."""

from functools import partial
from typing import Any

from torch import nn

from torchstone.data.vision.dataset import load_images
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import train_images
from torchstone.parts.conv.convolution import conv_norm_act
from torchstone.parts.facts import count_parameters, macs, on_meta

CLAIM = Claim(
    "depth-vgg",
    "Several layers of small kernels beat one layer of large kernels.",
    "Simonyan and Zisserman 2014",
    "Two stages of convolutions with max pooling between, on 4,000 digits of MNIST in 14 × 14, 300 "
    "updates of AdamW; in each stage two layers of 3 × 3, or one of 5 × 5, which sees as much, with some "
    "16,500 parameters both. Test accuracy.",
    "One layer of 3 × 3 in each stage, so much wider that it has as many parameters: if it does as well as "
    "two, small kernels count and not depth.",
    minutes=1.5,
    seeds=(0, 1, 2, 3, 4),
)
SIZE = 14
# width of the first stage, layers in each, side of the kernels
ARMS = {"3×3, two layers": (16, 2, 3), "5×5, one layer": (18, 1, 5), "3×3, one layer": (30, 1, 3)}
DEEP, LARGE, SHALLOW = ARMS


def network(width: int, layers: int, kernel: int) -> nn.Module:
    modules: list[nn.Module] = []
    inputs = 1
    for outputs in (width, 2 * width):
        for _ in range(layers):
            modules.append(conv_norm_act(inputs, outputs, kernel))
            inputs = outputs
        modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def measure(seed: int) -> Row:
    """Test accuracy, parameters and multiply-accumulates of each network."""
    data = load_images("mnist5k", size=SIZE, channels=1)
    row: Row = {}
    for name, sizes in ARMS.items():
        outcome = train_images(partial(network, *sizes), data, seed=seed, steps=300)
        row[name] = {
            "accuracy": outcome.metrics["test/accuracy"],
            "parameters": count_parameters(outcome.model),
            "macs": macs(on_meta(network, *sizes), (1, 1, SIZE, SIZE)),
        }
    return row


def judge(rows: list[Row]) -> Verdict:
    accuracy = {name: [row[name]["accuracy"] for row in rows] for name in ARMS}
    mean = {name: sum(values) / len(rows) for name, values in accuracy.items()}
    against_large = paired(f"test accuracy, {DEEP} − {LARGE}", accuracy[DEEP], accuracy[LARGE])
    against_shallow = paired(f"test accuracy, {DEEP} − {SHALLOW}", accuracy[DEEP], accuracy[SHALLOW])
    finding = "test accuracy " + "; ".join(
        f"{name} {mean[name]:.3f} ({rows[0][name]['parameters']:,} parameters, "
        f"{rows[0][name]['macs'] / 1e6:.1f} M multiply-accumulates)"
        for name in ARMS
    )
    tests = [against_large, against_shallow]
    if not against_large.is_above_zero:
        return Verdict("not seen here", finding, tests)
    if not against_shallow.is_above_zero:
        return Verdict("not seen here", f"without depth small kernels do as well: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    accuracy = {name.replace(", ", "\n"): [row[name]["accuracy"] for row in rows] for name in ARMS}
    figure = bars({"test accuracy": accuracy})
    figure.axes[0].set_ylim(min(map(min, accuracy.values())) - 0.01, 1)
    return figure
