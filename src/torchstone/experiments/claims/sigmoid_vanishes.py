"""Gradients of a deep sigmoid network vanish on their way to the first layer."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from torchstone.data.vision.dataset import load_images
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import mlp_run
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "sigmoid-vanishes",
    "Sigmoid units make gradients vanish with depth.",
    "Hochreiter 1991; Glorot and Bengio 2010",
    "Digits, untrained networks of 2 to 30 hidden layers of 128 units: the norm of the loss's gradient "
    "by the "
    "first layer's weights, over that by the last layer's.",
    "Tanh with Xavier's and ReLU with He's initialization must keep their gradients at the same depths.",
    minutes=0.2,
    seeds=(0, 1, 2, 3, 4),
)
DEPTHS = (2, 5, 10, 20, 30)
NETWORKS = {
    "sigmoid, Xavier": ("sigmoid", "xavier"),
    "tanh, Xavier": ("tanh", "xavier"),
    "ReLU, He": ("relu", "he"),
}
LARGEST_CHANGE = 2.0  # decades by which a gradient that keeps its scale may change


def measure(seed: int) -> Row:
    """log₁₀ of the ratio of norms, for each network and depth."""
    data = load_images("digits", size=8, channels=1)
    row: Row = {}
    for name, (activation, init) in NETWORKS.items():
        row[name] = []
        for depth in DEPTHS:
            recipe = replace(
                mlp.Recipe(),
                seed=seed,
                batch_size=256,
                widths=(128,) * depth,
                activation=activation,
                init=init,
            )
            run = mlp_run(recipe, data)
            model: Any = run.state["model"]
            model.double()
            images, labels = next(run.stream)
            loss = F.cross_entropy(model(images.double()), labels)
            weights = [model.layers[0].weight, model.layers[-1].weight]
            first, last = (g.norm() for g in torch.autograd.grad(loss, weights))
            row[name].append(math.log10(first / last))
    return row


def judge(rows: list[Row]) -> Verdict:
    last = {name: [row[name][-1] for row in rows] for name in NETWORKS}
    mean = {name: sum(values) / len(values) for name, values in last.items()}
    differences = [
        paired(
            f"decades at depth {DEPTHS[-1]}, sigmoid − {name.split(',')[0]}", last["sigmoid, Xavier"], values
        )
        for name, values in last.items()
        if not name.startswith("sigmoid")
    ]
    others_keep = all(abs(mean[name]) < LARGEST_CHANGE for name in NETWORKS if not name.startswith("sigmoid"))
    does = others_keep and mean["sigmoid, Xavier"] < -3 and all(d.is_below_zero for d in differences)
    finding = (
        f"at {DEPTHS[-1]} layers the first layer's gradient is 10^{mean['sigmoid, Xavier']:.1f} of the last "
        f"one's with sigmoids, 10^{mean['tanh, Xavier']:.1f} with tanh, 10^{mean['ReLU, He']:.1f} with ReLU"
    )
    return Verdict("holds" if does else "not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in NETWORKS}
    return curves({"log10 |gradient, first layer| / |last layer|": lines}, DEPTHS, "hidden layers")
