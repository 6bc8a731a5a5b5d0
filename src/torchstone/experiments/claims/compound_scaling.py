"""Depth, width and resolution scaled together against each of them alone, at four times the cost."""

from functools import partial
from typing import Any

from torchstone.data.vision.dataset import load_images
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import train_images
from torchstone.parts.facts import macs, on_meta
from torchstone.systems.convolutional.resnet import BasicBlock, ResNet

CLAIM = Claim(
    "compound-scaling",
    "Scaling depth, width and resolution together beats scaling one of them.",
    "Tan and Le 2019",
    "A ResNet of four blocks (8 and 16 channels) on 4,000 digits of MNIST in 10 × 10, and at four times "
    "its multiply-accumulates: four times as deep, twice as wide, twice the resolution, or each by less "
    "together; 200 updates of AdamW each. Test accuracy.",
    "The small network must do worse than at least one of the large ones, or cost is not what limits it.",
    minutes=2.5,
)
# blocks in each stage, channels of the first, side of the images in pixels
SMALL, COMPOUND = "small", "together"
ARMS = {
    SMALL: (2, 8, 10),
    "depth": (8, 8, 10),
    "width": (2, 16, 10),
    "resolution": (2, 8, 20),
    COMPOUND: (3, 10, 13),
}


def network(depth: int, width: int) -> ResNet:
    block = partial(BasicBlock, option="A")
    return ResNet(block, (depth, depth), widths=(width, 2 * width), stem="cifar", num_classes=10, channels=1)


def measure(seed: int) -> Row:
    """Test accuracy and multiply-accumulates of each network."""
    row: Row = {}
    for name, (depth, width, size) in ARMS.items():
        data = load_images("mnist5k", size=size, channels=1)
        outcome = train_images(partial(network, depth, width), data, seed=seed, steps=200)
        row[name] = {
            "accuracy": outcome.metrics["test/accuracy"],
            "macs": macs(on_meta(network, depth, width), (1, 1, size, size)),
        }
    return row


def judge(rows: list[Row]) -> Verdict:
    accuracy = {name: [row[name]["accuracy"] for row in rows] for name in ARMS}
    mean = {name: sum(values) / len(rows) for name, values in accuracy.items()}
    single = [name for name in ARMS if name not in (SMALL, COMPOUND)]
    against = {
        name: paired(f"test accuracy, {COMPOUND} − {name} alone", accuracy[COMPOUND], accuracy[name])
        for name in single
    }
    control = paired(f"test accuracy, {COMPOUND} − {SMALL}", accuracy[COMPOUND], accuracy[SMALL])
    tests = [*against.values(), control]
    finding = "test accuracy " + ", ".join(
        f"{name} {value:.3f} ({rows[0][name]['macs'] / 1e6:.2f} M)" for name, value in mean.items()
    )
    if all(each.is_above_zero for each in against.values()):
        return Verdict("holds", finding, tests)
    behind = [name for name, each in against.items() if each.is_above_zero]
    best = max(single, key=lambda name: mean[name])
    if behind and not against[best].is_below_zero:
        condition = f"it is compared with {' or '.join(behind)} alone; {best} alone does as well: {finding}"
        return Verdict("holds only when", condition, tests)
    return Verdict("not seen here", f"{best} alone is best: {finding}" if behind else finding, tests)


def draw(rows: list[Row]) -> Any:
    accuracy = {name: [row[name]["accuracy"] for row in rows] for name in ARMS}
    figure = bars({"test accuracy; all but the small one cost the same": accuracy})
    figure.axes[0].set_ylim(min(map(min, accuracy.values())) - 0.01, 1)
    return figure
