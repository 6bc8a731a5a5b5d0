"""A vision transformer needs more data than a convolutional network; augmentation closes part of the gap."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import balanced_index, classifier_run, train, with_train
from torchstone.systems.convolutional import lenet5
from torchstone.systems.transformer.vit import ViT

CLAIM = Claim(
    "vit-data",
    "A vision transformer needs more data than a convolutional network.",
    "Dosovitskiy et al. 2020",
    "A ViT of three blocks (48 wide, patches of 8 × 8; 62,000 parameters) and LeNet-5 (61,000) on 100, "
    "600 and 4,000 digits of MNIST in 32 × 32, 300 updates of AdamW, without augmentation and with random "
    "affine maps. Test accuracy.",
    "The gap must shrink with more data; augmentation, which stands for data, should close a part of it.",
    minutes=3,
)
SIZES = (100, 600, 4000)
AUGMENTATIONS = ("none", "affine")
RATES = {"ViT": 2e-3, "LeNet-5": 2e-3}


def vit() -> nn.Module:
    sizes: dict[str, Any] = {"width": 48, "depth": 3, "heads": 4, "mlp_dim": 96}
    return ViT.from_kwargs(image_size=32, patch_size=8, channels=1, num_classes=10, position_std=0.5, **sizes)


NETWORKS = {"ViT": vit, "LeNet-5": partial(lenet5.VARIANTS[lenet5.Recipe().variant].make, num_classes=10)}


def measure(seed: int) -> Row:
    """Test accuracy of each network at each size, by augmentation."""
    data = load_images("mnist5k", size=32, channels=1)
    row: Row = {name: {augment: [] for augment in AUGMENTATIONS} for name in NETWORKS}
    for size in SIZES:
        index = balanced_index(data.train.labels, size, torch.Generator().manual_seed(seed))
        chosen = with_train(data, index)
        for name, make in NETWORKS.items():
            for augment in AUGMENTATIONS:
                optim = OptimConfig(
                    optimizer="adamw", lr=RATES[name], weight_decay=0.02, warmup_ratio=0.1, max_grad_norm=1.0
                )
                recipe = replace(
                    lenet5.Recipe(), seed=seed, steps=300, batch_size=32, augment=augment, optim=optim
                )
                outcome = train(classifier_run(recipe, chosen, make))
                row[name][augment].append(outcome.metrics["test/accuracy"])
    return row


def judge(rows: list[Row]) -> Verdict:
    def gap(augment: str, i: int) -> list[float]:
        return [row["LeNet-5"][augment][i] - row["ViT"][augment][i] for row in rows]

    def mean(name: str, augment: str, i: int) -> float:
        return sum(row[name][augment][i] for row in rows) / len(rows)

    zeros = [0.0] * len(rows)
    gaps = [paired(f"LeNet-5 − ViT on {n}", gap("none", i), zeros) for i, n in enumerate(SIZES)]
    shrinks = paired(f"gap on {SIZES[0]} − gap on {SIZES[-1]}", gap("none", 0), gap("none", -1))
    closed = paired(f"gap on {SIZES[-1]}, not augmented − augmented", gap("none", -1), gap("affine", -1))
    finding = "test accuracy " + "; ".join(
        f"on {n}: "
        + ", ".join(
            f"{name} {mean(name, 'none', i):.3f} ({mean(name, 'affine', i):.3f})" for name in NETWORKS
        )
        for i, n in enumerate(SIZES)
    )
    finding += " (in brackets augmented)"
    tests = [*gaps, shrinks, closed]
    if not gaps[0].is_above_zero:
        return Verdict("not seen here", finding, tests)
    if not shrinks.is_above_zero:
        return Verdict("not seen here", f"the gap does not shrink: {finding}", tests)
    if closed.is_above_zero:
        condition = f"nothing stands for data, as augmentation does: {finding}"
        return Verdict("holds only when", condition, tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    panels = {
        f"test accuracy, augmentation: {augment}": {
            name: [row[name][augment] for row in rows] for name in NETWORKS
        }
        for augment in AUGMENTATIONS
    }
    return curves(panels, SIZES, "training images", xscale="log", ylim=(0.2, 1.0))
