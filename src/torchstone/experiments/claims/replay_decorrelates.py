"""DQN learns from a large replay buffer, and hardly from what it has just seen."""

from typing import Any

from torchstone.experiments.agents import mean
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.q_learning import draw_returns, late, measure_arms

CLAIM = Claim(
    "replay-decorrelates",
    "Experience replay lets Q-learning with a network learn, since it breaks the correlation of "
    "successive steps.",
    "Lin 1992; Mnih et al. 2013, 2015",
    "DQN on CartPole, 9,984 steps, 64 minibatches of 64 after every 128 steps, from a replay buffer of "
    "50,000 or 2,000 steps, or of the last 128 alone: the mean return of greedy episodes over the "
    "second half of the training.",
    "The number of minibatches is the same: if a short buffer were as good, replay would be reuse alone. "
    "A buffer of a medium size tells whether more is always better.",
    minutes=2,
    seeds=(0, 1, 2, 3, 4),
)
ARMS = {"50,000": {"buffer_size": 50_000}, "2,000": {"buffer_size": 2000}, "128": {"buffer_size": 128}}


def measure(seed: int) -> Row:
    return measure_arms(ARMS, seed)


def judge(rows: list[Row]) -> Verdict:
    full, *smaller = ARMS
    differences = [
        paired(f"return, buffer of {full} − {name}", late(rows, full), late(rows, name)) for name in smaller
    ]
    finding = "return " + ", ".join(f"{mean(late(rows, name)):.0f} with a buffer of {name}" for name in ARMS)
    if not differences[-1].is_above_zero:
        return Verdict("not seen here", finding, differences)
    if differences[0].is_below_zero:
        return Verdict("holds only when", f"the buffer is not too long: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    return draw_returns(rows, "return by size of the replay buffer")
