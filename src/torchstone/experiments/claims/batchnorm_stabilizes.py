"""Batch normalization speeds training and bears higher rates; covariate shift need not be why."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageDataset, load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import Outcome, mlp_run, steps_to, train
from torchstone.systems.fundamentals import mlp

CLAIM = Claim(
    "batchnorm-stabilizes",
    "Batch normalization speeds training and makes it stable at higher learning rates.",
    "Ioffe and Szegedy 2015; Santurkar et al. 2018",
    "The paper's network, three hidden layers of 100 sigmoid units and batches of 60, on 4,000 digits "
    "of MNIST; "
    "800 updates of SGD at seven constant rates: updates to a training loss of 0.5, and test accuracy.",
    "Random scales and shifts after each norm, new for each batch, bring the shift of distributions "
    "back: if it "
    "still is as fast, covariate shift is not the reason. Of batches of 2 the statistics are too poor "
    "to help.",
    minutes=6,
)
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
STEPS, LEVEL = 800, 0.5
Network = Literal[
    "plain", "batch norm", "batch norm, then noise", "plain, batches of 2", "norm, batches of 2"
]
NETWORKS: tuple[Network, ...] = (
    "plain",
    "batch norm",
    "batch norm, then noise",
    "plain, batches of 2",
    "norm, batches of 2",
)
CHANCE = 0.1  # accuracy where the loss diverged


def measure(seed: int) -> Row:
    """Updates to the loss (those of the training if it is not reached) and accuracy, at each rate."""
    data = load_images("mnist5k", size=28, channels=1)
    row: Row = {name: {"steps": [], "accuracy": []} for name in NETWORKS}
    for name in NETWORKS:
        for lr in RATES:
            outcome = train_network(name, lr, seed, data)
            row[name]["steps"].append(steps_to(outcome.losses, LEVEL) or STEPS)
            row[name]["accuracy"].append(outcome.metrics.get("test/accuracy", CHANCE))
    return row


def train_network(name: Network, lr: float, seed: int, data: ImageDataset) -> Outcome:
    recipe = replace(
        mlp.Recipe(),
        seed=seed,
        steps=STEPS,
        size=28,
        batch_size=2 if name.endswith("batches of 2") else 60,
        widths=(100, 100, 100),
        activation="sigmoid",
        init="xavier",
        batch_norm="norm" in name,
        optim=OptimConfig(optimizer="sgd", lr=lr, momentum=0.0, lr_schedule="constant"),
    )
    run = mlp_run(recipe, data)
    if name.endswith("noise"):
        generator = torch.Generator().manual_seed(seed)
        model: Any = run.state["model"]
        for norm in model.norms:
            norm.register_forward_hook(ShiftingNoise(generator))
    return train(run)


class ShiftingNoise:
    """A forward hook, in training: each unit is scaled and shifted by random numbers that every batch changes
    (Santurkar, Tsipras, Ilyas and Madry 2018, section 2.1)."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        scale, shift = torch.randn(2, output.shape[1], generator=self.generator)
        return output * (1 + 0.5 * scale) + 0.5 * shift


def judge(rows: list[Row]) -> Verdict:
    def best(name: str) -> list[float]:
        return [float(min(row[name]["steps"])) for row in rows]

    def stable(name: str) -> list[float]:
        """Rates at which the test accuracy is at least 0.85."""
        return [float(sum(a >= 0.85 for a in row[name]["accuracy"])) for row in rows]

    faster = paired("updates to the loss, plain − batch norm", best("plain"), best("batch norm"))
    wider = paired("rates that train, batch norm − plain", stable("batch norm"), stable("plain"))
    noisy = paired("updates, plain − norm and noise", best("plain"), best("batch norm, then noise"))

    def accurate(name: str) -> list[float]:
        """Test accuracy at the best rate."""
        return [max(row[name]["accuracy"]) for row in rows]

    few = {name: accurate(name) for name in ("norm, batches of 2", "plain, batches of 2")}
    small = paired("test accuracy in batches of 2, norm − plain", *few.values())
    mean = {name: sum(best(name)) / len(rows) for name in NETWORKS}
    finding = (
        f"{mean['batch norm']:.0f} updates to a loss of {LEVEL}, {mean['plain']:.0f} without, each at "
        f"its best rate; "
        f"{sum(stable('batch norm')) / len(rows):.1f} of {len(RATES)} rates train, "
        f"{sum(stable('plain')) / len(rows):.1f} "
        f"without; with noise after the norm {mean['batch norm, then noise']:.0f} updates"
    )
    differences = [faster, wider, noisy, small]
    if not (faster.is_above_zero and wider.is_above_zero):
        return Verdict("not seen here", finding, differences)
    reason = "; so a smaller covariate shift is not the reason" if noisy.is_above_zero else ""
    if not small.is_above_zero:
        with_norm, without = (sum(values) / len(rows) for values in few.values())
        condition = (
            f"batches are large enough (of 2, test accuracy is {with_norm:.2f} at the best rate, and "
            f"{without:.2f} without): {finding}{reason}"
        )
        return Verdict("holds only when", condition, differences)
    return Verdict("holds", finding + reason, differences)


def draw(rows: list[Row]) -> Any:
    panels = {
        title: {name: [row[name][key] for row in rows] for name in NETWORKS}
        for title, key in ((f"updates to a loss of {LEVEL}", "steps"), ("test accuracy", "accuracy"))
    }
    return curves(panels, RATES, "learning rate", xscale="log")
