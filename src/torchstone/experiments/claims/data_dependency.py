"""Deep networks want much data: accuracy over the number of examples, beside two simpler methods."""

from dataclasses import replace
from typing import Any

import torch

from torchstone.data.vision.dataset import ImageDataset, load_images, normalize
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import balanced_index, train_lenet5, with_train
from torchstone.systems.convolutional import lenet5

CLAIM = Claim(
    "data-dependency",
    "Deep networks need much data: with little, simpler methods do better.",
    "Ng and Jordan 2001; LeCun et al. 1998",
    "LeNet-5, logistic regression and the nearest neighbor on 30 to 4,000 digits of MNIST, by class: "
    "test accuracy. "
    "The network has 400 updates for each size, without augmentation.",
    "The curves must cross for the claim to hold. What is built into a convolution is knowledge of "
    "images too.",
    minutes=4,
)
SIZES = (30, 100, 300, 1000, 4000)
METHODS = ("LeNet-5", "logistic regression", "nearest neighbor")


def measure(seed: int) -> Row:
    data = load_images("mnist5k", size=32, channels=1)
    row: Row = {name: [] for name in METHODS}
    optim = OptimConfig(optimizer="adamw", lr=2e-3, weight_decay=0.02, warmup_ratio=0.1)
    for size in SIZES:
        index = balanced_index(data.train.labels, size, torch.Generator().manual_seed(seed))
        chosen = with_train(data, index)
        recipe = replace(
            lenet5.Recipe(), seed=seed, steps=400, batch_size=min(64, size), augment="none", optim=optim
        )
        row["LeNet-5"].append(train_lenet5(recipe, chosen).metrics["test/accuracy"])
        for name, accuracy in shallow_accuracy(chosen).items():
            row[name].append(accuracy)
    return row


def shallow_accuracy(data: ImageDataset) -> dict[str, float]:
    """Test accuracy of scikit-learn's methods on normalized pixels; the regression's C by validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    pixels, labels = {}, {}
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        pixels[name] = normalize(split.take(torch.arange(len(split))), data.metadata).flatten(1).numpy()
        labels[name] = split.labels.numpy()
    models = [
        LogisticRegression(C=c, max_iter=200).fit(pixels["train"], labels["train"])
        for c in (1e-4, 1e-3, 1e-2)
    ]
    best = max(models, key=lambda model: model.score(pixels["val"], labels["val"]))
    neighbor = KNeighborsClassifier(1).fit(pixels["train"], labels["train"])
    return {
        "logistic regression": float(best.score(pixels["test"], labels["test"])),
        "nearest neighbor": float(neighbor.score(pixels["test"], labels["test"])),
    }


def judge(rows: list[Row]) -> Verdict:
    def best_shallow(i: int) -> list[float]:
        return [max(row[name][i] for name in METHODS[1:]) for row in rows]

    differences = [
        paired(
            f"test accuracy on {n}, LeNet-5 − the better other",
            [row["LeNet-5"][i] for row in rows],
            best_shallow(i),
        )
        for i, n in enumerate(SIZES)
    ]
    mean = {
        name: [sum(row[name][i] for row in rows) / len(rows) for i in range(len(SIZES))] for name in METHODS
    }
    finding = "test accuracy " + "; ".join(
        f"on {n}: " + ", ".join(f"{name} {values[i]:.3f}" for name, values in mean.items())
        for i, n in enumerate(SIZES)
    )
    if not differences[-1].is_above_zero:
        return Verdict("not seen here", finding, differences)
    below = [n for n, d in zip(SIZES, differences, strict=True) if d.is_below_zero]
    if below:
        condition = f"there are at most {below[-1]} examples: {finding}"
        return Verdict("holds only when", condition, differences)
    return Verdict("not seen here", f"the network is nowhere behind: {finding}", differences)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in METHODS}
    return curves({"test accuracy": lines}, SIZES, "training images", xscale="log")
