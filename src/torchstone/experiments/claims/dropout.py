"""Dropout reduces overfitting."""

from torchstone.experiments.claim import Claim, Row, Verdict
from torchstone.experiments.overfitting import (
    CONTROL,
    SETTING,
    draw_gaps,
    judge_gaps,
    measure_gaps,
    train_with,
)

__all__ = ["CLAIM", "draw", "judge", "measure"]

CLAIM = Claim(
    "dropout",
    "Dropout reduces overfitting.",
    "Srivastava et al. 2014",
    f"{SETTING} Without, and with 20 % of the pixels and 50 % of the hidden units dropped.",
    CONTROL,
    minutes=2,
    seeds=(0, 1, 2, 3, 4),
)
ARMS = {"plain": train_with({}), "dropout": train_with({"dropout": 0.5, "dropout_input": 0.2})}


def measure(seed: int) -> Row:
    return measure_gaps(ARMS, seed)


def judge(rows: list[Row]) -> Verdict:
    return judge_gaps(rows, "plain", "dropout")


draw = draw_gaps
