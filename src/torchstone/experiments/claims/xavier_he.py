"""The right initialization keeps the scale of the signal through 30 layers; batch norm hides it."""

import math
from dataclasses import replace
from typing import Any

import torch

from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import mlp_run, train
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "xavier-he",
    "The right initialization keeps the scale of the signal, so that deep networks train.",
    "Glorot and Bengio 2010; He et al. 2015",
    "Digits, 30 hidden layers of 256 ReLU units: the standard deviation of the last hidden layer's "
    "input over "
    "the first one's, untrained; and test accuracy after 150 updates of SGD.",
    "With batch normalization the initialization must hardly matter.",
    minutes=2,
)
WIDTH, DEPTH = 256, 30
INITS = {"He, 2/in": "he", "Xavier, 2/(in + out)": "xavier", "1/in": "fan_in"}


def measure(seed: int) -> Row:
    data = load_images("digits", size=8, channels=1)
    row: Row = {"ratio": {}, "accuracy": {}, "accuracy with batch norm": {}}
    for name, init in INITS.items():
        for batch_norm in (False, True):
            # Xavier's is 1/in where all layers are as wide, and its trainings would be the same again
            if name.startswith("Xavier") and batch_norm:
                continue
            recipe = replace(
                mlp.Recipe(),
                seed=seed,
                steps=150,
                widths=(WIDTH,) * DEPTH,
                init=init,
                batch_norm=batch_norm,
                optim=OptimConfig(optimizer="sgd", lr=3e-3 if not batch_norm else 3e-2, momentum=0.9),
            )
            run = mlp_run(recipe, data)
            if not batch_norm:
                row["ratio"][name] = deviation_ratio(run)
            if not name.startswith("Xavier"):
                key = "accuracy with batch norm" if batch_norm else "accuracy"
                row[key][name] = train(run).metrics.get("test/accuracy", 0.1)
    return row


def deviation_ratio(run: Any) -> float:
    """Standard deviation of the pre-activations of the last hidden layer over that of the first one."""
    model = run.state["model"]
    z: list[torch.Tensor] = []
    hooks = [model.layers[i].register_forward_hook(lambda *call: z.append(call[2])) for i in (0, DEPTH - 1)]
    with torch.no_grad():
        model(next(run.stream)[0])
    for hook in hooks:
        hook.remove()
    return (z[1].std() / z[0].std()).item()


def judge(rows: list[Row]) -> Verdict:
    he, small = "He, 2/in", "1/in"
    ratio = {name: math.exp(sum(math.log(row["ratio"][name]) for row in rows) / len(rows)) for name in INITS}
    difference = paired(
        "accuracy, He − 1/in", [r["accuracy"][he] for r in rows], [r["accuracy"][small] for r in rows]
    )
    key = "accuracy with batch norm"
    control = paired("with batch norm, He − 1/in", [r[key][he] for r in rows], [r[key][small] for r in rows])
    accuracy = {name: sum(r["accuracy"][name] for r in rows) / len(rows) for name in (he, small)}
    finding = (
        f"after {DEPTH} layers the signal is {ratio[he]:.2g} times as large with He's and {ratio[small]:.1g} "
        f"times with 1/in; test accuracy {accuracy[he]:.3f} and {accuracy[small]:.3f}"
    )
    keeps = 0.5 <= ratio[he] <= 2 and ratio[small] < 1e-3
    if not (keeps and difference.is_above_zero):
        return Verdict("not seen here", finding, [difference, control])
    if abs(control.mean) < 0.1 * difference.mean:
        finding = f"there is no batch norm, with which it hardly matters: {finding}"
        return Verdict("holds only when", finding, [difference, control])
    return Verdict("holds", finding, [difference, control])


def draw(rows: list[Row]) -> Any:
    panels = {
        "log10 of the signal's scale after 30 layers": {
            name: [math.log10(row["ratio"][name]) for row in rows] for name in INITS
        },
        "test accuracy": {
            f"{name.split(',')[0]}{suffix}": [row[key][name] for row in rows]
            for key, suffix in (("accuracy", ""), ("accuracy with batch norm", ", norm"))
            for name in ("He, 2/in", "1/in")
        },
    }
    return bars(panels)
