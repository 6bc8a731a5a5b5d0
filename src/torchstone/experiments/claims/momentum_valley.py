"""Momentum crosses narrow valleys in a fraction of the steps."""

import math
from dataclasses import replace
from typing import Any

import torch

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import steps_to, train_mlp, tuned
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "momentum-valley",
    "Momentum speeds gradient descent along narrow valleys.",
    "Polyak 1964; Sutskever et al. 2013",
    "Quadratics of 20 dimensions with condition numbers 1 to 10,000, from a random start: steps to a "
    "millionth "
    "of the first loss, with the best constant rates that theory knows, without and with momentum. And a "
    "network: digits, updates to a training loss of 0.1, each the best of five rates.",
    "On a round bowl (condition number 1) there must be no difference.",
    minutes=1,
    seeds=(0, 1, 2, 3, 4),
)
CONDITIONS = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
LONGEST = 200_000
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
STEPS, LEVEL = 400, 0.1


def measure(seed: int) -> Row:
    row: Row = {"plain": [], "momentum": [], "network": {}}
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(20, dtype=torch.float64, generator=generator)
    for condition in CONDITIONS:
        curvature = torch.logspace(0, math.log10(condition), 20, dtype=torch.float64)
        row["plain"].append(descend(curvature, start, 2 / (1 + condition), 0.0))
        root = math.sqrt(condition)
        row["momentum"].append(
            descend(curvature, start, (2 / (1 + root)) ** 2, ((root - 1) / (root + 1)) ** 2)
        )
    data = load_images("digits", size=8, channels=1)
    for name, momentum in (("plain", 0.0), ("momentum", 0.9)):
        outcomes = {}
        for lr in RATES:
            optim = OptimConfig(optimizer="sgd", lr=lr, momentum=momentum, lr_schedule="constant")
            recipe = replace(mlp.Recipe(), seed=seed, steps=STEPS, widths=(64, 64), optim=optim)
            outcomes[lr] = train_mlp(recipe, data)
        lr, _ = tuned(outcomes)
        reached = [steps_to(each.losses, LEVEL) or STEPS for each in outcomes.values()]
        row["network"][name] = {"steps": min(reached), "rate": lr}
    return row


def descend(curvature: torch.Tensor, x: torch.Tensor, lr: float, momentum: float) -> int:
    """Steps of gradient descent on Σ curvature x² / 2 until the loss is a millionth of the first one."""
    first, velocity = (curvature * x.square()).sum(), torch.zeros_like(x)
    for step in range(1, LONGEST + 1):
        velocity = momentum * velocity - lr * curvature * x
        x = x + velocity
        if (curvature * x.square()).sum() <= 1e-6 * first:
            return step
    return LONGEST


def judge(rows: list[Row]) -> Verdict:
    differences = [
        paired(
            f"log10 steps at condition number {condition:g}, plain − momentum",
            [math.log10(row["plain"][i]) for row in rows],
            [math.log10(row["momentum"][i]) for row in rows],
        )
        for i, condition in enumerate(CONDITIONS)
    ]
    network = paired(
        f"updates of the network to a loss of {LEVEL}, plain − momentum",
        [float(row["network"]["plain"]["steps"]) for row in rows],
        [float(row["network"]["momentum"]["steps"]) for row in rows],
    )
    ratio = [
        sum(row["plain"][i] for row in rows) / sum(row["momentum"][i] for row in rows)
        for i in range(len(CONDITIONS))
    ]
    steps = {k: sum(r["network"][k]["steps"] for r in rows) / len(rows) for k in ("plain", "momentum")}
    finding = (
        f"{ratio[-1]:.0f} times fewer steps at a condition number of {CONDITIONS[-1]:,.0f}, "
        f"{ratio[1]:.1f} times at "
        f"10, as many in a round bowl; the network takes {steps['plain']:.0f} updates without and "
        f"{steps['momentum']:.0f} with momentum, each at its best rate of {len(RATES)}"
    )
    crosses = all(d.is_above_zero for d in differences[2:]) and abs(differences[0].mean) < 0.05
    if not crosses:
        return Verdict("not seen here", finding, [*differences, network])
    if not network.is_above_zero:
        return Verdict("holds only when", f"the valley is narrow: {finding}", [*differences, network])
    return Verdict("holds", finding, [*differences, network])


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in ("plain", "momentum")}
    return curves(
        {"steps to a millionth of the loss": lines},
        CONDITIONS,
        "condition number",
        xscale="log",
        yscale="log",
    )
