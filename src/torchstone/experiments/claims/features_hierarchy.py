"""Lower layers hold edges, higher ones classes: linear probes of each layer, trained and untrained."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageDataset, load_images, normalize
from torchstone.engine import rng
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import train_images
from torchstone.parts.conv.convolution import conv_norm_act
from torchstone.parts.modes import eval_mode

CLAIM = Claim(
    "features-hierarchy",
    "The first layers of a network learn edges, later ones objects.",
    "Zeiler and Fergus 2013; Alain and Bengio 2016",
    "Five convolutions of 16 channels, trained on 4,000 digits of MNIST in 28 × 28 with 400 updates of "
    "AdamW; logistic regression on each layer's maps, averaged to 4 × 4, for the class and for the "
    "orientation of the edge in the middle (four directions), from 1,500 images. Accuracy on test images.",
    "The same probes of the untrained network: without learning the class must not get clearer with depth.",
    minutes=2,
)
LAYERS = 5
TARGETS = ("class", "edge")
STATES = ("trained", "untrained")
PROBED = 1500  # training images of the probes
MIDDLE, DIRECTIONS = 8, 4  # side of the window in pixels; directions of an edge


def network() -> nn.Sequential:
    strides = (1, 2, 1, 2, 1)
    layers = [conv_norm_act(16 if i else 1, 16, 3, stride) for i, stride in enumerate(strides)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10))


def edge_direction(images: Tensor) -> Int64[Tensor, " batch"]:
    """The direction with the largest sum of gradient magnitudes in the middle of each image."""
    first = (images.shape[-1] - MIDDLE) // 2
    window = images[:, 0, first - 1 : first + MIDDLE + 1, first - 1 : first + MIDDLE + 1]
    right = window[:, 1:-1, 2:] - window[:, 1:-1, :-2]
    down = window[:, 2:, 1:-1] - window[:, :-2, 1:-1]
    angle = torch.atan2(down, right).remainder(math.pi)
    direction = (angle / math.pi * DIRECTIONS).round().long() % DIRECTIONS
    magnitude = (right**2 + down**2).sqrt()
    sums = torch.stack([(magnitude * (direction == d)).sum((1, 2)) for d in range(DIRECTIONS)], 1)
    return sums.argmax(1)


@torch.no_grad()
def layer_features(model: nn.Sequential, images: Tensor) -> list[Tensor]:
    """Each layer's maps, averaged to 4 × 4: (batch, 256)."""
    features, x = [], images
    with eval_mode(model):
        for layer in list(model)[:LAYERS]:
            x = layer(x)
            features.append(F.adaptive_avg_pool2d(x, 4).flatten(1))
    return features


def measure(seed: int) -> Row:
    """Accuracy of the probes of each layer, by target, trained and untrained."""
    data = load_images("mnist5k", size=28, channels=1)
    trained: Any = train_images(network, data, seed=seed, steps=400).model
    rng.seed(seed)
    untrained = network()
    row: Row = {}
    for name, model in zip(STATES, (trained, untrained), strict=True):
        row[name] = probe_accuracies(model, data)
    return row


def probe_accuracies(model: nn.Sequential, data: ImageDataset) -> dict[str, list[float]]:
    from sklearn.linear_model import LogisticRegression

    splits = {}
    for name, count in (("train", PROBED), ("test", len(data.test))):
        split = getattr(data, name)
        images = normalize(split.take(torch.arange(count)), data.metadata)
        targets = {"class": split.labels[:count], "edge": edge_direction(images)}
        splits[name] = layer_features(model, images), targets
    accuracies: dict[str, list[float]] = {target: [] for target in TARGETS}
    for layer in range(LAYERS):
        x, test = splits["train"][0][layer], splits["test"][0][layer]
        mean, std = x.mean(0), x.std(0) + 1e-3
        for target in TARGETS:
            probe = LogisticRegression(C=0.01, max_iter=60)
            probe.fit(((x - mean) / std).numpy(), splits["train"][1][target].numpy())
            score = probe.score(((test - mean) / std).numpy(), splits["test"][1][target].numpy())
            accuracies[target].append(float(score))
    return accuracies


def judge(rows: list[Row]) -> Verdict:
    def change(state: str, target: str) -> list[float]:
        return [row[state][target][-1] - row[state][target][0] for row in rows]

    zeros = [0.0] * len(rows)
    rises = paired("class, last − first layer", change("trained", "class"), zeros)
    falls = paired("edge, last − first layer", change("trained", "edge"), zeros)
    learned = paired(
        "rise of the class, trained − untrained", change("trained", "class"), change("untrained", "class")
    )
    edges = paired(
        "change of the edge, trained − untrained", change("trained", "edge"), change("untrained", "edge")
    )

    def mean(state: str, target: str, layer: int) -> float:
        return sum(row[state][target][layer] for row in rows) / len(rows)

    finding = "; ".join(
        f"{state}, from the first to layer {LAYERS} the class goes from {mean(state, 'class', 0):.3f} to "
        f"{mean(state, 'class', -1):.3f}, the edge from {mean(state, 'edge', 0):.3f} to "
        f"{mean(state, 'edge', -1):.3f}"
        for state in STATES
    )
    tests = [rises, falls, learned, edges]
    if not (rises.is_above_zero and learned.is_above_zero):
        return Verdict("not seen here", finding, tests)
    if not falls.is_below_zero:
        return Verdict("holds only when", f"objects are meant; edges stay as clear: {finding}", tests)
    if not edges.is_below_zero:
        condition = f"objects are meant; edges fade in an untrained network too: {finding}"
        return Verdict("holds only when", condition, tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    panels = {
        f"accuracy of the probe for the {target}": {
            state: [row[state][target] for row in rows] for state in STATES
        }
        for target in TARGETS
    }
    return curves(panels, range(1, LAYERS + 1), "layer")
