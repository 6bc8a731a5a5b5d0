"""Training a system for an experiment: its recipe, its `build`, `fit`; no folder, no pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.engine import rng
from torchstone.engine.run import Intervals, Run, fit
from torchstone.engine.update import OptimConfig
from torchstone.errors import NotFinite
from torchstone.systems.convolutional import lenet5
from torchstone.systems.fundamentals import mlp
from torchstone.tasks.vision.classify import classify


@dataclass(frozen=True)
class Outcome:
    """Of one training.

    `metrics` are `fit`'s (`val/…`, `test/…`), of the last weights; empty if the loss became infinite.
    """

    metrics: dict[str, float]
    losses: list[float]  # of each update
    model: nn.Module

    @property
    def has_diverged(self) -> bool:
        return not self.metrics


def train(run: Run, *, evaluations: int = 1) -> Outcome:
    """Train a run to its end and measure its last weights; with several evaluations, the best."""
    losses: list[Tensor] = []
    update: Callable[[Any], Any] = run.update

    def recorded(batch: Any) -> Any:
        metrics = update(batch)
        losses.append(torch.as_tensor(metrics["loss"]).detach())
        return metrics

    run.update = recorded
    if evaluations == 1:
        run.best_metric = None  # the last weights are measured
    every = max(1, run.steps // evaluations)
    try:
        metrics = dict(fit(run, quiet=True, intervals=Intervals(evaluate=every)))
    except NotFinite:
        metrics = {}
    model: Any = run.state["model"]
    return Outcome(metrics, [loss.item() for loss in losses], model)


def with_train(
    data: ImageDataset, index: Tensor, labels: Int64[Tensor, " count"] | None = None
) -> ImageDataset:
    """`data` with the training images at `index`, perhaps with other labels; validation and test stay."""
    split = data.train
    chosen = ImageSplit(split.labels[index] if labels is None else labels, split.take(index))
    return replace(data, train=chosen)


def balanced_index(
    labels: Int64[Tensor, " count"], number: int, generator: torch.Generator
) -> Int64[Tensor, " chosen"]:
    """`number` random positions, of each class as many as of any other (one more at most)."""
    order = torch.randperm(len(labels), generator=generator)
    rank = torch.zeros_like(labels)
    for label in labels.unique():
        of_class: Bool[Tensor, " count"] = labels[order] == label
        rank[order[of_class]] = torch.arange(int(of_class.sum()), device=labels.device)
    # the first of every class, then the second of every class, …
    return order[rank[order].argsort(stable=True)][:number]


def classifier_run(recipe: Any, data: ImageDataset, make_model: Callable[[], nn.Module]) -> Run:
    """A run of a classifier from the recipe's seed, on data that an experiment has changed."""
    rng.seed(recipe.seed)
    return classify(make_model(), recipe, data, model_config={})


def train_mlp(recipe: mlp.Recipe, data: ImageDataset, **options: Any) -> Outcome:
    """An `mlp` on data that an experiment has changed; options as `train`."""
    return train(mlp_run(recipe, data), **options)


def mlp_run(recipe: mlp.Recipe, data: ImageDataset) -> Run:
    features = data.metadata["channels"] * data.metadata["size"] ** 2
    make = partial(mlp.MLP, len(data.classes), features, **mlp.mlp_config(recipe))
    return classifier_run(recipe, data, make)


def train_lenet5(recipe: lenet5.Recipe, data: ImageDataset, **options: Any) -> Outcome:
    """A `lenet5` on data that an experiment has changed; options as `train`."""
    make = partial(lenet5.VARIANTS[recipe.variant].make, num_classes=len(data.classes))
    return train(classifier_run(recipe, data, make), **options)


def train_images(
    make_model: Callable[[], nn.Module],
    data: ImageDataset,
    *,
    seed: int,
    steps: int,
    batch_size: int = 32,
    lr: float = 4e-3,
    augment: str = "none",
) -> Outcome:
    """A classifier that no recipe has, by AdamW with a warm-up over a tenth of the updates."""
    optim = OptimConfig(optimizer="adamw", lr=lr, weight_decay=0.02, warmup_ratio=0.1)
    recipe = replace(
        lenet5.Recipe(), seed=seed, steps=steps, batch_size=batch_size, augment=augment, optim=optim
    )
    return train(classifier_run(recipe, data, make_model))


def tuned(
    outcomes: Mapping[float, Outcome], metric: str = "val/accuracy", *, lowest: bool = False
) -> tuple[float, Outcome]:
    """The rate, or other setting, whose training came out best by validation; one that diverged never is.

    Args:
        lowest: the lowest value of `metric` is the best, as of a loss.

    Raises:
        ValueError: all diverged.
    """
    finite = {key: each for key, each in outcomes.items() if not each.has_diverged}
    if not finite:
        raise ValueError(f"the loss became infinite at each of {', '.join(map(str, outcomes))}")
    best = max(finite, key=lambda key: (-1 if lowest else 1) * finite[key].metrics[metric])
    return best, finite[best]


def steps_to(losses: Sequence[float], level: float, window: int = 20) -> int | None:
    """Updates until the mean loss of the last `window` is at most `level`; None if it never is."""
    for end in range(window, len(losses) + 1):
        # each window anew: of a running sum that a loss of 1e20 went through nothing small is left
        if sum(losses[end - window : end]) / window <= level:
            return end
    return None
