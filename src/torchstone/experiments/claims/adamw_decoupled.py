"""Decoupled weight decay: the best decay does not depend on the learning rate, and does better."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.training import balanced_index, train_mlp, with_train
from torchstone.plots.canvas import canvas, frame
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "adamw-decoupled",
    "Weight decay that is decoupled from the gradient (AdamW) regularizes better than an L2 term in "
    "Adam's loss.",
    "Loshchilov and Hutter 2017",
    "1,000 digits of MNIST, two hidden layers of 256 units, 300 updates, cosine schedule: test "
    "accuracy over a "
    "grid of four rates and six decays. The best cell of each, chosen by validation.",
    "The paper says that the optimum separates: so the best decay of neighboring rates must differ "
    "less with AdamW. Its "
    "decay is multiplied by the rate, which the grids here leave as it is.",
    minutes=6,
)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
DECAYS: dict[Literal["adam", "adamw"], tuple[float, ...]] = {
    "adam": (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "adamw": (0.0, 0.03, 0.1, 0.3, 1.0, 3.0),
}
TRAINED_ON = 1000
CHANCE = 0.1  # accuracy where the loss diverged


def measure(seed: int) -> Row:
    """Validation and test accuracy for each rate and decay."""
    data = load_images("mnist5k", size=28, channels=1)
    index = balanced_index(data.train.labels, TRAINED_ON, torch.Generator().manual_seed(seed))
    data = with_train(data, index)
    row: Row = {}
    for optimizer, decays in DECAYS.items():
        row[optimizer] = {"val": [], "test": []}
        for lr in RATES:
            outcomes = []
            for decay in decays:
                optim = OptimConfig(optimizer=optimizer, lr=lr, weight_decay=decay)
                recipe = replace(mlp.Recipe(), seed=seed, steps=300, size=28, widths=(256, 256), optim=optim)
                outcomes.append(train_mlp(recipe, data).metrics)
            for split in ("val", "test"):
                row[optimizer][split].append([m.get(f"{split}/accuracy", CHANCE) for m in outcomes])
    return row


def judge(rows: list[Row]) -> Verdict:
    def best_test(table: dict[str, Any]) -> float:
        val = np.asarray(table["val"])
        return float(np.asarray(table["test"])[np.unravel_index(val.argmax(), val.shape)])

    def moves(table: dict[str, Any]) -> float:
        """How many cells the best decay moves from a rate to the next one, on average."""
        return float(np.abs(np.diff(np.asarray(table["val"]).argmax(1))).mean())

    better = paired(
        "test accuracy, AdamW − Adam with L2",
        *([best_test(row[n]) for row in rows] for n in ("adamw", "adam")),
    )
    nearer = paired(
        "cells that the best decay moves a rate, L2 − AdamW",
        *([moves(row[n]) for row in rows] for n in ("adam", "adamw")),
    )
    mean = {name: sum(best_test(row[name]) for row in rows) / len(rows) for name in DECAYS}
    steps = {name: sum(moves(row[name]) for row in rows) / len(rows) for name in DECAYS}
    finding = (
        f"test accuracy {mean['adamw']:.3f} with AdamW, {mean['adam']:.3f} with L2; from one rate to "
        f"the next the "
        f"best decay moves by {steps['adamw']:.1f} cells and {steps['adam']:.1f}"
    )
    if better.is_above_zero and nearer.is_above_zero:
        return Verdict("holds", finding, [better, nearer])
    if better.is_above_zero:
        return Verdict(
            "holds only when", f"nothing is said of the optimum's place: {finding}", [better, nearer]
        )
    return Verdict("not seen here", finding, [better, nearer])


def draw(rows: list[Row]) -> Any:
    figure = canvas(9.0, 3.6)
    for axes, (name, decays) in zip(figure.subplots(1, 2), DECAYS.items(), strict=True):
        table = np.mean([row[name]["test"] for row in rows], 0)
        image = axes.imshow(table, cmap="viridis", vmin=0.85, vmax=max(0.86, float(table.max())))
        frame(axes, "Adam with L2" if name == "adam" else "AdamW")
        axes.grid(False)
        axes.set_xticks(range(len(decays)), [f"{decay:g}" for decay in decays])
        axes.set_yticks(range(len(RATES)), [f"{lr:g}" for lr in RATES])
        axes.set(xlabel="weight decay", ylabel="learning rate")
        figure.colorbar(image, ax=axes, label="test accuracy")
    return figure
