"""Augmentation makes a network robust; a wrong one harms."""

from dataclasses import replace
from typing import Any

import torch

from torchstone.data.vision.dataset import ImageDataset, ImageSplit, load_images
from torchstone.data.vision.geometric_ops import affine
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import balanced_index, train_lenet5, with_train
from torchstone.systems.convolutional import lenet5
from torchstone.tasks.vision.classify import evaluate_split

CLAIM = Claim(
    "augmentation",
    "Transformed copies of the training images make a network robust.",
    "Simard, Steinkraus and Platt 2003",
    "LeNet-5 on 500 and on 4,000 digits of MNIST, 600 updates: without augmentation, with random "
    "affine maps, and with "
    "mirror images, which digits are not. Accuracy on clean test images and on those mapped at random.",
    "Mirroring must not help.",
    minutes=4,
)
SIZES = (500, 4000)
ARMS = {"none": "none", "affine": "affine", "mirrored": "flip"}


def measure(seed: int) -> Row:
    """Accuracy on clean and on transformed test images: {arm: {"clean": […], "transformed": […]}}."""
    data = load_images("mnist5k", size=32, channels=1)
    transformed = transform(data, seed)
    row: Row = {name: {"clean": [], "transformed": []} for name in ARMS}
    for size in SIZES:
        index = balanced_index(data.train.labels, size, torch.Generator().manual_seed(seed))
        chosen = with_train(data, index)
        for name, augment in ARMS.items():
            recipe = replace(lenet5.Recipe(), seed=seed, steps=600, augment=augment)
            model = train_lenet5(recipe, chosen).model
            for key, split in (("clean", data.test), ("transformed", transformed)):
                row[name][key].append(evaluate_split(model, split, data.metadata)["accuracy"])
    return row


def transform(data: ImageDataset, seed: int) -> ImageSplit:
    """The test images, each by one random affine map."""
    count = len(data.test)
    generator = torch.Generator().manual_seed(seed)
    mapped = affine(10, 0.1, 0.06)(  # as in training
        data.test.take(torch.arange(count)), lambda *shape: torch.rand(count, *shape, generator=generator)
    )
    return ImageSplit(data.test.labels, mapped.round().clamp(0, 255).to(torch.uint8))


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str, i: int) -> list[float]:
        return [row[name][key][i] for row in rows]

    robust = [
        paired(
            f"transformed images, {n} examples, affine − none",
            *(column(a, "transformed", i) for a in ("affine", "none")),
        )
        for i, n in enumerate(SIZES)
    ]
    clean = [
        paired(
            f"clean images, {n} examples, affine − none", *(column(a, "clean", i) for a in ("affine", "none"))
        )
        for i, n in enumerate(SIZES)
    ]
    wrong = [
        paired(
            f"clean images, {n} examples, mirrored − none",
            *(column(a, "clean", i) for a in ("mirrored", "none")),
        )
        for i, n in enumerate(SIZES)
    ]
    mean = {
        (name, key, i): sum(column(name, key, i)) / len(rows)
        for name in ARMS
        for key in ("clean", "transformed")
        for i in range(len(SIZES))
    }
    finding = "; ".join(
        f"on {n} examples, accuracy on transformed images {mean['affine', 'transformed', i]:.3f} (without "
        f"{mean['none', 'transformed', i]:.3f}), on clean ones {mean['affine', 'clean', i]:.3f} "
        f"({mean['none', 'clean', i]:.3f}; mirrored {mean['mirrored', 'clean', i]:.3f})"
        for i, n in enumerate(SIZES)
    )
    helps = all(d.is_above_zero for d in robust) and not any(d.is_above_zero for d in wrong)
    if not helps:
        return Verdict("not seen here", finding, robust + clean + wrong)
    if any(d.is_below_zero for d in wrong):
        condition = f"the transformation leaves the class as it is: {finding}"
        return Verdict("holds only when", condition, robust + clean + wrong)
    return Verdict("holds", finding, robust + clean + wrong)


def draw(rows: list[Row]) -> Any:
    panels = {
        f"accuracy, {key} test images": {
            f"{name}\n{n:,}": [row[name][key][i] for row in rows]
            for i, n in enumerate(SIZES)
            for name in ARMS
        }
        for key in ("clean", "transformed")
    }
    return bars(panels)
