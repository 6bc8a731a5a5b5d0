"""Wrong labels cost accuracy; repeated examples do not."""

from dataclasses import replace
from typing import Any

import torch

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import train_lenet5, with_train
from torchstone.systems.convolutional import lenet5

CLAIM = Claim(
    "data-quality",
    "The performance of a network depends on clean labels.",
    "Rolnick et al. 2017; Zhang et al. 2017",
    "LeNet-5 on 4,000 digits of MNIST of which 0 to 60 % have another label at random, 600 updates: "
    "accuracy on "
    "clean test images.",
    "As many images that are copies of others instead: they must harm far less.",
    minutes=4,
)
SHARES = (0.0, 0.1, 0.2, 0.4, 0.6)


def measure(seed: int) -> Row:
    """Test accuracy for each share of wrong labels, and of copies."""
    data = load_images("mnist5k", size=32, channels=1)
    generator = torch.Generator().manual_seed(seed)
    labels, count, classes = data.train.labels, len(data.train), len(data.classes)
    order = torch.randperm(count, generator=generator)
    offset = torch.randint(1, classes, (count,), generator=generator)  # to another class, never the same
    row: Row = {"wrong labels": [], "copies": []}
    recipe = replace(
        lenet5.Recipe(),
        seed=seed,
        steps=600,
        augment="none",
        optim=OptimConfig(optimizer="adamw", lr=2e-3, weight_decay=0.02, warmup_ratio=0.1),
    )
    for share in SHARES:
        bad, good = order[: round(share * count)], order[round(share * count) :]
        wrong = labels.clone()
        wrong[bad] = (labels[bad] + offset[bad]) % classes
        index = torch.arange(count)
        noisy = with_train(data, index, wrong)
        row["wrong labels"].append(train_lenet5(recipe, noisy).metrics["test/accuracy"])
        index[bad] = good[torch.randint(len(good), (len(bad),), generator=generator)]
        row["copies"].append(train_lenet5(recipe, with_train(data, index)).metrics["test/accuracy"])
    return row


def judge(rows: list[Row]) -> Verdict:
    lost = {name: [row[name][0] - row[name][-1] for row in rows] for name in ("wrong labels", "copies")}
    zero = [0.0] * len(rows)
    differences = [
        paired(f"accuracy lost by {SHARES[-1]:.0%} wrong labels", lost["wrong labels"], zero),
        paired(
            f"lost by wrong labels − lost by copies, {SHARES[-1]:.0%}", lost["wrong labels"], lost["copies"]
        ),
    ]
    mean = {
        name: [sum(row[name][i] for row in rows) / len(rows) for i in range(len(SHARES))] for name in lost
    }
    finding = "test accuracy " + "; ".join(
        f"at {share:.0%} {mean['wrong labels'][i]:.3f} with wrong labels, {mean['copies'][i]:.3f} with copies"
        for i, share in enumerate(SHARES)
    )
    does = all(d.is_above_zero for d in differences)
    return Verdict("holds" if does else "not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in ("wrong labels", "copies")}
    return curves({"accuracy on clean test images": lines}, SHARES, "share of training images")
