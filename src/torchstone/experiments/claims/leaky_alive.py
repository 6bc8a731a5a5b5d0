"""Leaky ReLU keeps units alive at a learning rate at which plain ones die."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from torchstone.data.vision.dataset import ImageDataset, load_images, normalize
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import classifier_run, train, train_mlp
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "leaky-alive",
    "Leaky ReLU keeps units alive that plain ReLU loses for good.",
    "Maas, Hannun and Ng 2013",
    "Digits, five hidden layers of 128 units, SGD with momentum: 150 updates at one of four learning rates, "
    "then 300 at a low one. Units are off whose input is negative on every training image; measured are the "
    "share that is off after the first phase and after the second, and test accuracy.",
    "After a first phase at a low rate there must be no difference.",
    minutes=1,
    seeds=tuple(range(10)),
)
RATES = (0.003, 0.05, 0.1, 0.2)  # of the first phase
LOW = 0.003
UNITS = {"ReLU": "relu", "leaky ReLU": "leaky_relu"}
CHANCE = 0.1  # accuracy where the loss diverged


def measure(seed: int) -> Row:
    """Shares of units that are off, and test accuracy, for each unit and rate."""
    data = load_images("digits", size=8, channels=1)
    row: Row = {name: {"off": [], "still off": [], "accuracy": []} for name in UNITS}
    for name, activation in UNITS.items():
        for lr in RATES:
            optim = OptimConfig(optimizer="sgd", lr=lr, momentum=0.9, lr_schedule="constant")
            recipe = replace(
                mlp.Recipe(), seed=seed, steps=150, widths=(128,) * 5, activation=activation, optim=optim
            )
            model = train_mlp(recipe, data).model
            row[name]["off"].append(off_share(model, data))
            second = replace(recipe, steps=300, optim=replace(optim, lr=LOW))
            outcome = train(classifier_run(second, data, lambda network=model: network))
            row[name]["still off"].append(off_share(model, data))
            row[name]["accuracy"].append(outcome.metrics.get("test/accuracy", CHANCE))
    return row


def off_share(model: nn.Module, data: ImageDataset) -> float:
    """Share of hidden units whose input is negative on every training image; those of a network that diverged
    all are."""
    layers: Any = model.layers
    inputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda *call: inputs.append(call[2])) for layer in layers[:-1]]
    with torch.no_grad():
        model(normalize(data.train.take(torch.arange(len(data.train))), data.metadata))
    for hook in hooks:
        hook.remove()
    is_on = torch.cat([(z > 0).any(0) for z in inputs])  # of NaN none is above zero
    return 1 - is_on.float().mean().item()


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str, i: int) -> list[float]:
        return [row[name][key][i] for row in rows]

    off = [
        paired(
            f"units still off after a rate of {lr}, ReLU − leaky", *(column(n, "still off", i) for n in UNITS)
        )
        for i, lr in enumerate(RATES)
    ]
    accuracy = [
        paired(f"accuracy after a rate of {lr}, ReLU − leaky", *(column(n, "accuracy", i) for n in UNITS))
        for i, lr in enumerate(RATES)
    ]
    figures = {
        (name, key): [sum(column(name, key, i)) / len(rows) for i in range(len(RATES))]
        for name in UNITS
        for key in ("off", "still off", "accuracy")
    }
    finding = "; ".join(
        f"after a rate of {lr} of ReLU units {figures['ReLU', 'off'][i]:.2f} are off and "
        f"{figures['ReLU', 'still off'][i]:.2f} stay so, of leaky ones "
        f"{figures['leaky ReLU', 'off'][i]:.2f} and "
        f"{figures['leaky ReLU', 'still off'][i]:.2f} (accuracy {figures['ReLU', 'accuracy'][i]:.2f} and "
        f"{figures['leaky ReLU', 'accuracy'][i]:.2f})"
        for i, lr in enumerate(RATES)
    )
    is_equal_when_low = abs(off[0].mean) < 0.02
    if is_equal_when_low and any(d.is_above_zero for d in off[1:]):
        return Verdict("holds only when", f"the learning rate was high: {finding}", off + accuracy)
    holds = all(d.is_above_zero for d in off)
    return Verdict("holds" if holds else "not seen here", finding, off + accuracy)


def draw(rows: list[Row]) -> Any:
    panels = {
        title: {name: [row[name][key] for row in rows] for name in UNITS}
        for title, key in (
            ("units off after the first phase", "off"),
            ("units off after the second", "still off"),
            ("test accuracy", "accuracy"),
        )
    }
    return curves(panels, RATES, "learning rate of the first phase", xscale="log", ylim=(-0.02, 1.02))
