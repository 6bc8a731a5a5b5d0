"""Early stopping reduces overfitting: the weights that are best by validation, not the last ones."""

import copy
from dataclasses import replace

from torchstone.data.vision.dataset import ImageDataset
from torchstone.experiments.claim import Claim, Row, Verdict
from torchstone.experiments.overfitting import BASE, CONTROL, SETTING, draw_gaps, judge_gaps, measure_gaps
from torchstone.experiments.training import Outcome, mlp_run, train

__all__ = ["CLAIM", "draw", "judge", "measure"]

CLAIM = Claim(
    "early-stopping",
    "Stopping early, when validation gets worse, reduces overfitting.",
    "Morgan and Bourlard 1989; Prechelt 1998",
    f"{SETTING} The learning rate is constant. The last weights, and those that were best of 40 "
    f"validations by loss.",
    f"{CONTROL} Accuracy may stay where the loss gets worse: a network that is too sure is still right.",
    minutes=2,
    seeds=(0, 1, 2, 3, 4),
)


def train_run(data: ImageDataset, seed: int, *, stops: bool) -> Outcome:
    """The base recipe at a constant rate, its last weights or the best by validation's loss."""
    recipe = replace(BASE, seed=seed, optim=replace(BASE.optim, lr_schedule="constant"))
    run = mlp_run(recipe, data)
    run.best_metric = "loss"
    if not stops:
        return train(run)
    outcome = train(run, evaluations=40)
    with run.best_weights():
        return Outcome(outcome.metrics, outcome.losses, copy.deepcopy(outcome.model))


def measure(seed: int) -> Row:
    arms = {
        "last": lambda data, seed: train_run(data, seed, stops=False),
        "best": lambda data, seed: train_run(data, seed, stops=True),
    }
    return measure_gaps(arms, seed)


def judge(rows: list[Row]) -> Verdict:
    return judge_gaps(rows, "last", "best")


draw = draw_gaps
