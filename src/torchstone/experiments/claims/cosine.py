"""A cosine schedule reaches a lower error than a constant rate within the same updates."""

from dataclasses import replace
from typing import Any, Literal

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import train_lenet5
from torchstone.systems.convolutional import lenet5

CLAIM = Claim(
    "cosine",
    "A learning rate that falls along a cosine ends better than one that is constant.",
    "Loshchilov and Hutter 2016",
    "LeNet-5 on 4,000 digits of MNIST, 600 updates of SGD with momentum, constant, in three steps, "
    "linear and "
    "cosine, at five rates each: test accuracy of the rate that is best by validation.",
    "A linear fall must do about as well: what matters is that the rate falls, not the curve.",
    minutes=8,
)
SCHEDULES: tuple[Literal["constant", "step", "linear", "cosine"], ...] = (
    "constant",
    "step",
    "linear",
    "cosine",
)
RATES = (0.003, 0.01, 0.03, 0.1, 0.2)
CHANCE = 0.1  # accuracy where the loss diverged


def measure(seed: int) -> Row:
    """Validation and test accuracy at each rate."""
    data = load_images("mnist5k", size=32, channels=1)
    row: Row = {name: {"val": [], "test": []} for name in SCHEDULES}
    for name in SCHEDULES:
        for lr in RATES:
            optim = OptimConfig(optimizer="sgd", lr=lr, momentum=0.9, lr_schedule=name)
            recipe = replace(lenet5.Recipe(), seed=seed, steps=600, optim=optim, augment="none")
            metrics = train_lenet5(recipe, data).metrics
            for split in ("val", "test"):
                row[name][split].append(metrics.get(f"{split}/accuracy", CHANCE))
    return row


def judge(rows: list[Row]) -> Verdict:
    def chosen(name: str) -> list[float]:
        """Test accuracy of the rate that is best by validation, a seed."""
        tables = [row[name] for row in rows]
        return [table["test"][table["val"].index(max(table["val"]))] for table in tables]

    differences = [
        paired(f"test accuracy, cosine − {name}", chosen("cosine"), chosen(name))
        for name in SCHEDULES
        if name != "cosine"
    ]
    mean = {name: sum(chosen(name)) / len(rows) for name in SCHEDULES}
    finding = "test accuracy " + ", ".join(f"{name} {value:.4f}" for name, value in mean.items())
    if not differences[0].is_above_zero:
        return Verdict("not seen here", finding, differences)
    linear = differences[-1]
    if not linear.is_above_zero:
        finding += "; a linear fall does as well, so it is the fall and not the curve"
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name]["test"] for row in rows] for name in SCHEDULES}
    return curves({"test accuracy after 600 updates": lines}, RATES, "learning rate", xscale="log")
