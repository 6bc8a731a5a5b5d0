"""Adam converges faster than SGD with momentum, each at its best rate."""

from dataclasses import replace
from typing import Any

from torchstone.data.vision.dataset import ImageDataset, load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import Outcome, steps_to, train, train_lenet5
from torchstone.systems.convolutional import lenet5
from torchstone.systems.transformer import vit

CLAIM = Claim(
    "adam-faster",
    "Adam converges faster than SGD.",
    "Kingma and Ba 2014",
    "LeNet-5 on 4,000 digits of MNIST and a small vision transformer on digits of 8 × 8, 400 updates with a "
    "cosine schedule, SGD with momentum and Adam at six rates each: updates to a training loss of 0.3 "
    "(of the "
    "transformer, 0.8) at the best rate.",
    "Both have the same number of rates, half a decade apart, around their usual one.",
    minutes=8,
)
RATES = {"sgd": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "adam": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)}
STEPS = 400
LEVELS = {"LeNet-5": 0.3, "transformer": 0.8}
CHANCE = 0.1  # accuracy where the loss diverged


def measure(seed: int) -> Row:
    """Updates to the level, validation and test accuracy of each rate."""
    digits = load_images("mnist5k", size=32, channels=1)
    row: Row = {}
    for network, level in LEVELS.items():
        row[network] = {}
        for optimizer, rates in RATES.items():
            table: dict[str, list[float]] = {"steps": [], "val": [], "test": []}
            for lr in rates:
                outcome = train_network(network, optimizer, lr, seed, digits)
                table["steps"].append(steps_to(outcome.losses, level) or STEPS)
                table["val"].append(outcome.metrics.get("val/accuracy", CHANCE))
                table["test"].append(outcome.metrics.get("test/accuracy", CHANCE))
            row[network][optimizer] = table
    return row


def train_network(network: str, optimizer: Any, lr: float, seed: int, digits: ImageDataset) -> Outcome:
    optim = OptimConfig(optimizer=optimizer, lr=lr, momentum=0.9)
    if network == "LeNet-5":
        recipe = replace(lenet5.Recipe(), seed=seed, steps=STEPS, optim=optim, augment="none")
        return train_lenet5(recipe, digits)
    small = replace(vit.RECIPES["smoke"], seed=seed, steps=STEPS, batch_size=64, optim=optim)
    return train(next(iter(vit.build(small))))


def judge(rows: list[Row]) -> Verdict:
    differences, texts = [], []
    for network in LEVELS:
        best = {name: [float(min(row[network][name]["steps"])) for row in rows] for name in RATES}
        mean = {name: sum(values) / len(rows) for name, values in best.items()}
        differences.append(paired(f"updates of {network}, SGD − Adam", best["sgd"], best["adam"]))
        texts.append(f"{network} takes {mean['adam']:.0f} updates with Adam, {mean['sgd']:.0f} with SGD")
    finding = "; ".join(texts)
    faster = [name for name, d in zip(LEVELS, differences, strict=True) if d.is_above_zero]
    if len(faster) == len(LEVELS):
        return Verdict("holds", finding, differences)
    if faster:
        condition = f"the network is a {faster[0]}" if faster[0] == "transformer" else f"it is {faster[0]}"
        return Verdict("holds only when", f"{condition}: {finding}", differences)
    return Verdict("not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    panels = {
        f"{network}: updates to a loss of {level}": {
            name: [row[network][name]["steps"] for row in rows] for name in RATES
        }
        for network, level in LEVELS.items()
    }
    return curves(panels, range(6), "rate, lowest to highest of six")
