"""ReLU lets deep stacks train where sigmoids do not; initialization decides as much."""

from dataclasses import replace
from typing import Any

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import train_mlp, tuned
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "relu-cures",
    "ReLU units let deeper stacks of layers train.",
    "Glorot, Bordes and Bengio 2011; He et al. 2015",
    "Digits, 2 to 30 hidden layers of 64 units, 300 updates of Adam, the better of two learning rates by "
    "validation: test accuracy.",
    "ReLU with an initialization that loses half of the variance in each layer (1/fan-in), and tanh with "
    "Xavier's: if the first fails and the second trains, initialization decides as much as the unit.",
    minutes=2,
)
DEPTHS = (2, 5, 10, 20, 30)
RATES = (1e-3, 5e-3)
NETWORKS = {
    "sigmoid, Xavier": ("sigmoid", "xavier"),
    "tanh, Xavier": ("tanh", "xavier"),
    "ReLU, He": ("relu", "he"),
    "ReLU, 1/fan-in": ("relu", "fan_in"),
}
TRAINS = 0.9  # test accuracy from which a network is said to have been trained


def measure(seed: int) -> Row:
    """Test accuracy of each network at each depth."""
    data = load_images("digits", size=8, channels=1)
    row: Row = {name: [] for name in NETWORKS}
    for name, (activation, init) in NETWORKS.items():
        for depth in DEPTHS:
            recipe = replace(
                mlp.Recipe(), seed=seed, steps=300, widths=(64,) * depth, activation=activation, init=init
            )
            outcomes = {
                lr: train_mlp(replace(recipe, optim=OptimConfig(optimizer="adam", lr=lr)), data)
                for lr in RATES
            }
            row[name].append(tuned(outcomes)[1].metrics["test/accuracy"])
    return row


def judge(rows: list[Row]) -> Verdict:
    deepest = {name: [row[name][-1] for row in rows] for name in NETWORKS}
    mean = {name: sum(values) / len(values) for name, values in deepest.items()}
    difference = paired(
        f"accuracy at depth {DEPTHS[-1]}, ReLU − sigmoid", deepest["ReLU, He"], deepest["sigmoid, Xavier"]
    )
    figures = ", ".join(f"{name.replace(', ', ' with ')} {value:.2f}" for name, value in mean.items())
    finding = f"test accuracy with {DEPTHS[-1]} layers: {figures}"
    if not (difference.is_above_zero and mean["ReLU, He"] >= TRAINS):
        return Verdict("not seen here", finding, [difference])
    if mean["ReLU, 1/fan-in"] < TRAINS:
        too = "; tanh trains as well" if mean["tanh, Xavier"] >= TRAINS else ""
        return Verdict(
            "holds only when",
            f"the initialization keeps the scale of the signal{too}: {finding}",
            [difference],
        )
    return Verdict("holds", finding, [difference])


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in NETWORKS}
    return curves({"test accuracy after 300 updates": lines}, DEPTHS, "hidden layers", ylim=(0, 1.02))
