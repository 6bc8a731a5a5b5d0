"""Regularizers on few and on many examples: a shared experiment of several claims."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from torchstone.data.vision.dataset import ImageDataset, load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import Outcome, balanced_index, train_mlp, with_train
from torchstone.systems.fundamentals import mlp
from torchstone.tasks.vision.classify import evaluate_split

SIZES = (500, 4000)  # training images
SETTING = (
    "Two hidden layers of 256 units on 500 and on 4,000 digits of MNIST, 800 updates of Adam: accuracy "
    "on the "
    "training images less that on test images (the gap), and test accuracy."
)
CONTROL = "With eight times as many examples the gap and the gain must be smaller."
BASE = replace(
    mlp.Recipe(), size=28, widths=(256, 256), steps=800, optim=OptimConfig(optimizer="adamw", lr=1e-3)
)

Train = Callable[[ImageDataset, int], Outcome]


def measure_gaps(arms: Mapping[str, Train], seed: int) -> Row:
    """Accuracy of each arm at each size: {arm: {"train": […], "val": […], "test": […]}}."""
    data = load_images("mnist5k", size=28, channels=1)
    row: Row = {name: {"train": [], "val": [], "test": []} for name in arms}
    for size in SIZES:
        index = balanced_index(data.train.labels, size, torch.Generator().manual_seed(seed))
        chosen = with_train(data, index)
        for name, train in arms.items():
            outcome = train(chosen, seed)
            for split, values in row[name].items():
                metrics = evaluate_split(outcome.model, getattr(chosen, split), data.metadata)
                values.append(metrics["accuracy"])
    return row


def train_with(fields: Mapping[str, Any], **optim: Any) -> Train:
    """An arm: the base recipe with these fields changed."""

    def train(data: ImageDataset, seed: int) -> Outcome:
        recipe = replace(BASE, seed=seed, **fields)
        return train_mlp(replace(recipe, optim=replace(recipe.optim, **optim)), data)

    return train


def judge_gaps(rows: list[Row], plain: str, regularized: str) -> Verdict:
    """Holds if the gap is smaller and the test accuracy higher at both sizes; only when examples are few if
    at the smaller size alone; or if the gap closes but nothing is gained."""

    def gap(name: str, i: int) -> list[float]:
        return [row[name]["train"][i] - row[name]["test"][i] for row in rows]

    def test(name: str, i: int) -> list[float]:
        return [row[name]["test"][i] for row in rows]

    gaps = [
        paired(f"gap at {n}, {plain} − {regularized}", gap(plain, i), gap(regularized, i))
        for i, n in enumerate(SIZES)
    ]
    gains = [
        paired(f"test accuracy at {n}, {regularized} − {plain}", test(regularized, i), test(plain, i))
        for i, n in enumerate(SIZES)
    ]
    finding = "; ".join(
        f"on {n} examples the gap is {mean(gap(regularized, i)):.3f} and not "
        f"{mean(gap(plain, i)):.3f}, test accuracy "
        f"{mean(test(regularized, i)):.3f} and not {mean(test(plain, i)):.3f}"
        for i, n in enumerate(SIZES)
    )
    works = [smaller.is_above_zero and gain.is_above_zero for smaller, gain in zip(gaps, gains, strict=True)]
    if all(works):
        return Verdict("holds", finding, gaps + gains)
    if any(works):
        few = "few" if works[0] else "many"
        return Verdict("holds only when", f"examples are {few}: {finding}", gaps + gains)
    if all(each.is_above_zero for each in gaps):
        return Verdict("not seen here", f"the gap closes, but tests gain nothing: {finding}", gaps + gains)
    return Verdict("not seen here", finding, gaps + gains)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def draw_gaps(rows: list[Row]) -> Any:
    gaps, tests = {}, {}
    for i, n in enumerate(SIZES):
        for name in rows[0]:
            gaps[f"{name}\n{n:,}"] = [row[name]["train"][i] - row[name]["test"][i] for row in rows]
            tests[f"{name}\n{n:,}"] = [row[name]["test"][i] for row in rows]
    low = min(map(min, tests.values()))
    figure = bars({"gap of training and test accuracy": gaps, "test accuracy": tests})
    figure.axes[1].set_ylim(low - 0.02, 1)
    return figure
