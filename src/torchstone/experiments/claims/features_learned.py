"""Learned features against hand-made ones: a network beside HOG and a linear classifier."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset, load_images, normalize
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import balanced_index, train_lenet5, with_train
from torchstone.systems.convolutional import lenet5

CLAIM = Claim(
    "features-learned",
    "Features that a network learns beat those that are made by hand.",
    "LeCun et al. 1998; Dalal and Triggs 2005",
    "LeNet-5 on 100, 500 and 4,000 digits of MNIST, 400 updates, without augmentation; and logistic "
    "regression on histograms of oriented gradients (HOG), and on pixels, with its penalty chosen by "
    "validation. Test accuracy.",
    "Hand-made features must beat pixels, or they are badly made; with few examples they may win.",
    minutes=1.5,
)
SIZES = (100, 500, 4000)
LEARNED, HAND_MADE, PIXELS = "LeNet-5", "HOG, linear", "pixels, linear"
BINS, CELL, BLOCK = 9, 4, 2  # orientations, pixels of a cell's side, cells of a block's side


def oriented_gradients(images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch features"]:
    """HOG: in each cell the histogram of the gradients' orientations, weighted by their magnitude and shared
    between the two nearest bins; normalized over overlapping blocks of cells.

    Dalal and Triggs 2005, section 6, with clipping at 0.2.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    right = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]).squeeze(1)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]).squeeze(1)
    magnitude = (right**2 + down**2).sqrt()
    position = torch.atan2(down, right).remainder(math.pi) / math.pi * BINS  # 0 to BINS, without sign
    lower = position.floor()
    upper_share = position - lower
    maps = torch.stack(
        [
            magnitude
            * (
                (lower.remainder(BINS) == b) * (1 - upper_share)
                + ((lower + 1).remainder(BINS) == b) * upper_share
            )
            for b in range(BINS)
        ],
        1,
    )
    cells = F.avg_pool2d(maps, CELL)  # (batch, bins, rows, columns)
    blocks = F.unfold(cells, BLOCK)  # (batch, bins · 4, positions)
    blocks = F.normalize(F.normalize(blocks, dim=1).clamp(max=0.2), dim=1)
    return blocks.flatten(1)


def measure(seed: int) -> Row:
    """Test accuracy of each method at each size."""
    data = load_images("mnist5k", size=32, channels=1)
    row: Row = {name: [] for name in (LEARNED, HAND_MADE, PIXELS)}
    optim = OptimConfig(optimizer="adamw", lr=2e-3, weight_decay=0.02, warmup_ratio=0.1)
    for size in SIZES:
        index = balanced_index(data.train.labels, size, torch.Generator().manual_seed(seed))
        chosen = with_train(data, index)
        recipe = replace(lenet5.Recipe(), seed=seed, steps=400, augment="none", optim=optim)
        row[LEARNED].append(train_lenet5(recipe, chosen).metrics["test/accuracy"])
        for name, features in ((HAND_MADE, oriented_gradients), (PIXELS, lambda x: x.flatten(1))):
            row[name].append(linear_accuracy(chosen, features))
    return row


def linear_accuracy(data: ImageDataset, features: Any) -> float:
    """Test accuracy of logistic regression on features of the images, its C by validation."""
    from sklearn.linear_model import LogisticRegression

    x, y = {}, {}
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        x[name] = features(normalize(split.take(torch.arange(len(split))), data.metadata)).numpy()
        y[name] = split.labels.numpy()
    scale = x["train"].std()
    models = [
        LogisticRegression(C=c, max_iter=100).fit(x["train"] / scale, y["train"]) for c in (1e-3, 1e-2, 1e-1)
    ]
    best = max(models, key=lambda model: model.score(x["val"] / scale, y["val"]))
    return float(best.score(x["test"] / scale, y["test"]))


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, i: int) -> list[float]:
        return [row[name][i] for row in rows]

    against = [
        paired(f"test accuracy on {n}, {LEARNED} − {HAND_MADE}", column(LEARNED, i), column(HAND_MADE, i))
        for i, n in enumerate(SIZES)
    ]
    made_well = paired(
        f"test accuracy on {SIZES[0]}, {HAND_MADE} − {PIXELS}", column(HAND_MADE, 0), column(PIXELS, 0)
    )
    finding = "test accuracy " + "; ".join(
        f"on {n}: "
        + ", ".join(f"{name} {sum(column(name, i)) / len(rows):.3f}" for name in (LEARNED, HAND_MADE, PIXELS))
        for i, n in enumerate(SIZES)
    )
    tests = [*against, made_well]
    if not made_well.is_above_zero:
        return Verdict("not seen here", f"the hand-made features are no better than pixels: {finding}", tests)
    if all(each.is_above_zero for each in against):
        return Verdict("holds", finding, tests)
    wins = [n for n, each in zip(SIZES, against, strict=True) if each.is_above_zero]
    if wins:
        return Verdict("holds only when", f"there are {wins[0]} examples or more: {finding}", tests)
    return Verdict("not seen here", finding, tests)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in (LEARNED, HAND_MADE, PIXELS)}
    return curves({"test accuracy": lines}, SIZES, "training images", xscale="log")
