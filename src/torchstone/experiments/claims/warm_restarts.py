"""Warm restarts move the weights to other solutions: whether they leave the basin, and what it brings."""

import copy
import itertools
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset, load_images, normalize
from torchstone.engine.update import OptimConfig
from torchstone.experiments.agents import mean
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.training import Outcome, balanced_index, mlp_run, train, tuned, with_train
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "warm-restarts",
    "Restarts of the learning rate let training explore several solutions at no cost.",
    "Loshchilov and Hutter 2016; Huang et al. 2017; Fort et al. 2019",
    "Two hidden layers of 128 units on 1,000 digits of MNIST, SGD with momentum, 900 updates: one cosine, "
    "and three of 300 each, at the best by validation of four rates. Test accuracy at the end and of the "
    "mean prediction of the three snapshots; how many test images two snapshots classify differently; and "
    "the barrier, by how much the training loss half way between the weights of two snapshots exceeds "
    "that at its ends.",
    "Three networks trained for 300 updates from other weights, which certainly are other solutions; and "
    "a third cosine continued at the lowest rate instead of restarted, which goes nowhere.",
    minutes=1,
    seeds=(0, 1, 2, 3, 4),
)
EXAMPLES, STEPS, CYCLES = 1000, 900, 3
CYCLE = STEPS // CYCLES
RATES = (0.01, 0.03, 0.1, 0.3)


def measure(seed: int) -> Row:
    data = load_images("mnist5k", size=28, channels=1)
    index = balanced_index(data.train.labels, EXAMPLES, torch.Generator().manual_seed(seed))
    data = with_train(data, index)
    cosine = {lr: train_network(data, seed, STEPS, lr)[0] for lr in RATES}
    restarts = {lr: train_network(data, seed, STEPS, lr, lr_schedule="warm_restarts") for lr in RATES}
    _, best_cosine = tuned(cosine)
    lr, outcome = tuned({lr: outcome for lr, (outcome, _) in restarts.items()})
    snapshots = restarts[lr][1]
    others = [train_network(data, 1000 * (seed + 1) + i, CYCLE, lr)[0].model for i in range(CYCLES)]
    # one cycle, then the lowest rate of a cosine that would have ended there
    options = {"lr_schedule": "step", "lr_period": CYCLE, "lr_decay": 1e-3}
    still = train_network(data, seed, STEPS, lr, **options)[1]
    return {
        "cosine": best_cosine.metrics["test/accuracy"],
        "restarts": outcome.metrics["test/accuracy"],
        "snapshots": {"accuracy": ensemble_accuracy(snapshots, data), **distances(snapshots, data)},
        "independent": {"accuracy": ensemble_accuracy(others, data), **distances(others, data)},
        "no restart": {"accuracy": ensemble_accuracy(still, data), **distances(still, data)},
    }


def train_network(
    data: ImageDataset, seed: int, steps: int, lr: float, **schedule: Any
) -> tuple[Outcome, list[Any]]:
    """A training, and copies of the network after each cycle."""
    if schedule.get("lr_schedule") == "warm_restarts":
        schedule |= {"lr_period": CYCLE, "lr_period_mult": 1}
    optim = replace(OptimConfig(optimizer="sgd", lr=lr, momentum=0.9), **schedule)
    recipe = replace(
        mlp.Recipe(), seed=seed, size=28, widths=(128, 128), steps=steps, batch_size=64, optim=optim
    )
    run = mlp_run(recipe, data)
    update, copies, count = run.update, [], 0

    def recorded(batch: Any) -> Any:
        nonlocal count
        metrics = update(batch)
        count += 1
        if count % CYCLE == 0:
            copies.append(copy.deepcopy(run.state["model"]))
        return metrics

    run.update = recorded
    return train(run), copies


@torch.no_grad()
def probabilities(model: Any, data: ImageDataset) -> Float[Tensor, "count classes"]:
    """Of the test images."""
    x = normalize(data.test.take(torch.arange(len(data.test))), data.metadata)
    return model.eval()(x).softmax(1)


def ensemble_accuracy(models: list[Any], data: ImageDataset) -> float:
    """Of the mean prediction."""
    predicted = torch.stack([probabilities(model, data) for model in models]).mean(0).argmax(1)
    return (predicted == data.test.labels).float().mean().item()


def distances(models: list[Any], data: ImageDataset) -> dict[str, float]:
    """Disagreement on test images and barrier of the training loss, means over pairs of networks."""
    labels: list[Int64[Tensor, " count"]] = [probabilities(model, data).argmax(1) for model in models]
    x = normalize(data.train.take(torch.arange(len(data.train))), data.metadata)

    @torch.no_grad()
    def loss(model: Any) -> float:
        return F.cross_entropy(model.eval()(x), data.train.labels).item()

    disagreements, barriers = [], []
    for (a, labels_a), (b, labels_b) in itertools.combinations(zip(models, labels, strict=True), 2):
        disagreements.append((labels_a != labels_b).float().mean().item())
        half_way = copy.deepcopy(a)
        with torch.no_grad():
            for p, q in zip(half_way.parameters(), b.parameters(), strict=True):
                p.lerp_(q, 0.5)
        barriers.append(loss(half_way) - (loss(a) + loss(b)) / 2)
    return {"disagreement": mean(disagreements), "barrier": mean(barriers)}


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str) -> list[float]:
        return [row[name][key] for row in rows]

    snapshots, others, still = "snapshots", "independent", "no restart"
    moves = paired(
        "disagreement, restarts − no restart",
        column(snapshots, "disagreement"),
        column(still, "disagreement"),
    )
    leaves = paired("barrier, restarts − no restart", column(snapshots, "barrier"), column(still, "barrier"))
    less = paired(
        "disagreement, independent − restarts",
        column(others, "disagreement"),
        column(snapshots, "disagreement"),
    )
    cosine = [row["cosine"] for row in rows]
    gain = paired("test accuracy, mean of snapshots − cosine", column(snapshots, "accuracy"), cosine)
    differences = [moves, leaves, less, gain]
    finding = (
        "; ".join(
            f"{name}: {mean(column(name, 'disagreement')):.2%} of test images classified differently, "
            f"barrier {mean(column(name, 'barrier')):.3f} nats, accuracy of the mean "
            f"{mean(column(name, 'accuracy')):.4f}"
            for name in (snapshots, others, still)
        )
        + f"; one cosine {mean(cosine):.4f}, last of the cycles {mean([row['restarts'] for row in rows]):.4f}"
    )
    if not moves.is_above_zero:
        return Verdict("not seen here", finding, differences)
    # a tenth of the barrier between networks that certainly are in different basins
    if mean(column(snapshots, "barrier")) < 0.1 * mean(column(others, "barrier")):
        return Verdict(
            "holds only when", f"one basin is enough, which they do not leave: {finding}", differences
        )
    if not gain.is_above_zero:
        return Verdict(
            "holds only when", f"other solutions are meant, not better ones: {finding}", differences
        )
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    names = ("snapshots", "independent", "no restart")
    accuracy = {f"mean of\n{name}": [row[name]["accuracy"] for row in rows] for name in names[:2]}
    accuracy |= {"one cosine": [row["cosine"] for row in rows]}
    accuracy |= {"last cycle": [row["restarts"] for row in rows]}
    figure = bars(
        {
            "disagreement on test images": {n: [row[n]["disagreement"] for row in rows] for n in names},
            "barrier of the training loss": {n: [row[n]["barrier"] for row in rows] for n in names},
            "test accuracy": accuracy,
        }
    )
    figure.axes[2].set_ylim(min(map(min, accuracy.values())) - 0.01, 1)
    return figure
