"""The learning rate trades speed against stability."""

import math
from dataclasses import replace
from typing import Any

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import train_mlp
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "learning-rate",
    "The learning rate trades speed against stability: too low is slow, too high does not converge.",
    "Robbins and Monro 1951; Bengio 2012",
    "Digits, two hidden layers of 64 units, 200 updates at eight constant rates, with SGD, SGD with momentum "
    "and Adam: training loss over the last 20 updates.",
    "The loss must rise on both sides of the best rate, for each optimizer.",
    minutes=1,
    seeds=(0, 1, 2, 3, 4),
)
RATES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "sgd", "momentum": 0.0},
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "Adam": {"optimizer": "adam"},
}
LARGEST = 100.0  # a loss above it, or none at all, counts as this


def measure(seed: int) -> Row:
    data = load_images("digits", size=8, channels=1)
    row: Row = {}
    for name, settings in OPTIMIZERS.items():
        row[name] = []
        for lr in RATES:
            optim = OptimConfig(lr=lr, lr_schedule="constant", **settings)
            recipe = replace(mlp.Recipe(), seed=seed, steps=200, widths=(64, 64), optim=optim)
            outcome = train_mlp(recipe, data)
            last = sum(outcome.losses[-20:]) / 20
            row[name].append(min(last, LARGEST) if math.isfinite(last) else LARGEST)
    return row


def judge(rows: list[Row]) -> Verdict:
    differences, best_rates, has_both = [], [], []
    for name in OPTIMIZERS:
        mean = [sum(row[name][i] for row in rows) / len(rows) for i in range(len(RATES))]
        best = mean.index(min(mean))
        best_rates.append(f"{name} {RATES[best]:.1g}")
        sides = [
            paired(
                f"{name}: log loss at {RATES[at]:.1g} − at its best rate",
                [math.log(row[name][at]) for row in rows],
                [math.log(row[name][best]) for row in rows],
            )
            for at in (0, len(RATES) - 1)
        ]
        differences += sides
        has_both.append(0 < best < len(RATES) - 1 and all(side.is_above_zero for side in sides))
    finding = f"a best rate between two worse ones for each optimizer ({', '.join(best_rates)})"
    if all(has_both):
        return Verdict("holds", finding, differences)
    return Verdict("not seen here", f"best rates: {', '.join(best_rates)}", differences)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in OPTIMIZERS}
    return curves(
        {"training loss after 200 updates": lines}, RATES, "learning rate", xscale="log", yscale="log"
    )
