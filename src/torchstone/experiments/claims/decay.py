"""Weight decay reduces overfitting."""

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
    "decay",
    "Weight decay reduces overfitting.",
    "Krogh and Hertz 1991",
    f"{SETTING} Without, and with decoupled decays of 3 and 30 times the learning rate.",
    f"{CONTROL} A strong decay must cost training accuracy.",
    minutes=3,
    seeds=(0, 1, 2, 3, 4),
)
ARMS = {
    "plain": train_with({}),
    "decay": train_with({}, weight_decay=3.0),
    "strong decay": train_with({}, weight_decay=30.0),
}


def measure(seed: int) -> Row:
    return measure_gaps(ARMS, seed)


def judge(rows: list[Row]) -> Verdict:
    """Of the two decays the one that is better by validation over all sizes and seeds."""
    best = max(("decay", "strong decay"), key=lambda name: sum(sum(row[name]["val"]) for row in rows))
    return judge_gaps(rows, "plain", best)


draw = draw_gaps
