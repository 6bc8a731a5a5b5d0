"""Small batches end in flatter minima that generalize better, at equal epochs; tuned large ones catch up."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from torchstone.data.vision.dataset import ImageDataset, load_images, normalize
from torchstone.engine.update import OptimConfig
from torchstone.experiments.agents import mean
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import balanced_index, train_mlp, tuned, with_train
from torchstone.parts.rl.natural_gradient import hessian_vector_product
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "sgd-noise-escapes",
    "The noise of small batches lets SGD escape sharp minima, so that it generalizes better.",
    "Keskar et al. 2016; Goyal et al. 2017; Hoffer et al. 2017",
    "Two hidden layers of 128 units on 2,000 digits of MNIST, plain SGD, batches of 10, 50 and 500 for 20 "
    "epochs at a constant rate, the best by validation of five, and batches of 500 for as many updates as "
    "batches of 50: test accuracy, and sharpness, the largest eigenvalue of the training loss's Hessian, "
    "by 20 power iterations.",
    "If it is the noise and not the number of updates, large batches must not catch up with as many "
    "updates at a tuned rate. And at the very rate of the small batch the large one has another number of "
    "epochs to learn in: so both are tuned.",
    minutes=2,
)
EXAMPLES, EPOCHS = 2000, 20
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
# name -> batch size, updates
ARMS = {
    "10": (10, EPOCHS * EXAMPLES // 10),
    "50": (50, EPOCHS * EXAMPLES // 50),
    "500": (500, EPOCHS * EXAMPLES // 500),
    "500, longer": (500, EPOCHS * EXAMPLES // 50),
}
ITERATIONS = 20


def measure(seed: int) -> Row:
    """Test accuracy, sharpness, training loss and rate of each batch size's best rate."""
    data = load_images("mnist5k", size=28, channels=1)
    index = balanced_index(data.train.labels, EXAMPLES, torch.Generator().manual_seed(seed))
    data = with_train(data, index)
    row: Row = {}
    for name, (batch_size, steps) in ARMS.items():
        outcomes = {}
        for lr in RATES:
            optim = OptimConfig(optimizer="sgd", lr=lr, momentum=0.0, lr_schedule="constant")
            recipe = replace(
                mlp.Recipe(),
                seed=seed,
                size=28,
                widths=(128, 128),
                steps=steps,
                batch_size=batch_size,
                optim=optim,
            )
            outcomes[lr] = train_mlp(recipe, data)
        rate, best = tuned(outcomes)
        loss, sharpness = loss_and_sharpness(best.model, data, seed)
        row[name] = {
            "test": best.metrics["test/accuracy"],
            "sharpness": sharpness,
            "loss": loss,
            "rate": rate,
        }
    return row


def loss_and_sharpness(model: Any, data: ImageDataset, seed: int) -> tuple[float, float]:
    """The training loss, and the largest eigenvalue of its Hessian, by power iteration."""
    model.eval()
    x = normalize(data.train.take(torch.arange(len(data.train))), data.metadata)
    loss = F.cross_entropy(model(x), data.train.labels)
    parameters = list(model.parameters())
    product = hessian_vector_product(loss, parameters)
    size = sum(p.numel() for p in parameters)
    v = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    for _ in range(ITERATIONS):
        v = product(v / v.norm())
    return loss.item(), v.norm().item()


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str) -> list[float]:
        return [row[name][key] for row in rows]

    def logs(name: str) -> list[float]:
        return [math.log10(value) for value in column(name, "sharpness")]

    better = paired("test accuracy, batches of 10 − of 500", column("10", "test"), column("500", "test"))
    flatter = paired("log10 sharpness, 500 − 10", logs("500"), logs("10"))
    longer = paired("test accuracy, 10 − 500 for longer", column("10", "test"), column("500, longer", "test"))
    longer_flat = paired("log10 sharpness, 500 for longer − 10", logs("500, longer"), logs("10"))
    differences = [better, flatter, longer, longer_flat]
    finding = "; ".join(
        f"batches of {name}: test accuracy {mean(column(name, 'test')):.4f}, sharpness "
        f"{10 ** mean(logs(name)):.1f} at a training loss of {mean(column(name, 'loss')):.3f}"
        for name in ARMS
    )
    if not better.is_above_zero:
        return Verdict("not seen here", finding, differences)
    if not flatter.is_above_zero:
        return Verdict("not seen here", f"small batches are better, but not flatter: {finding}", differences)
    if not longer.is_above_zero:
        return Verdict("holds only when", f"epochs are equal, not updates: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    panels = {
        title: {name.replace(", ", "\n"): [row[name][key] for row in rows] for name in ARMS}
        for title, key in (
            ("test accuracy, by batch size", "test"),
            ("sharpness: largest eigenvalue", "sharpness"),
            ("training loss", "loss"),
        )
    }
    figure = bars(panels)
    figure.axes[0].set_ylim(min(row[n]["test"] for row in rows for n in ARMS) - 0.01, 1)
    figure.axes[2].set_yscale("log")
    return figure
