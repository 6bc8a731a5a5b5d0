"""Label smoothing reduces overfitting."""

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
    "label-smoothing",
    "Smoothed labels reduce overfitting.",
    "Szegedy et al. 2015; Müller, Kornblith and Hinton 2019",
    f"{SETTING} Without, and with a tenth of each label spread over all classes.",
    CONTROL,
    minutes=2,
    seeds=(0, 1, 2, 3, 4),
)
ARMS = {"plain": train_with({}), "smoothed": train_with({"label_smoothing": 0.1})}


def measure(seed: int) -> Row:
    return measure_gaps(ARMS, seed)


def judge(rows: list[Row]) -> Verdict:
    return judge_gaps(rows, "plain", "smoothed")


draw = draw_gaps
