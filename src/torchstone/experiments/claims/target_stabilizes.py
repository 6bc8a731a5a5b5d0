"""A target network keeps Q-learning from chasing its own estimates."""

from typing import Any

from torchstone.experiments.agents import mean
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.q_learning import highest_q, late, measure_arms

CLAIM = Claim(
    "target-stabilizes",
    "A target network stabilizes deep Q-learning.",
    "Mnih et al. 2015",
    "DQN on CartPole, 9,984 steps, with a target network that is synchronized after every 128 "
    "minibatches and without one, with targets of one reward and of five: the mean return over the second "
    "half of the training, and the highest mean Q-value of an update, which cannot exceed 1 / (1 − γ) = "
    "100 if it is right.",
    "Targets of five rewards lean less on the network's own estimate: there it must matter less.",
    minutes=2,
    seeds=(0, 1, 2, 3, 4),
)
ARMS = {
    "target, 1 step": {},
    "none, 1 step": {"target_update_interval": 0},
    "target, 5 steps": {"n_step": 5},
    "none, 5 steps": {"n_step": 5, "target_update_interval": 0},
}
BOUND = 100.0


def measure(seed: int) -> Row:
    return measure_arms(ARMS, seed)


def judge(rows: list[Row]) -> Verdict:
    one, no_one, five, no_five = ARMS
    better = paired("return, target − none, 1 step", late(rows, one), late(rows, no_one))
    also = paired("return, target − none, 5 steps", late(rows, five), late(rows, no_five))
    lower = paired("highest Q, none − target, 1 step", highest_q(rows, no_one), highest_q(rows, one))
    differences = [better, also, lower]
    finding = "; ".join(
        f"{name}: return {mean(late(rows, name)):.0f}, highest Q {mean(highest_q(rows, name)):.0f}"
        for name in ARMS
    )
    if better.is_above_zero and also.is_above_zero:
        return Verdict("holds", finding, differences)
    if better.is_above_zero:
        return Verdict("holds only when", f"targets are of one reward: {finding}", differences)
    if also.is_above_zero:
        return Verdict("holds only when", f"targets are of five rewards: {finding}", differences)
    if lower.is_above_zero and mean(highest_q(rows, no_one)) > BOUND:
        values = f"its values are meant, which exceed {BOUND:g} without, not the return"
        return Verdict("holds only when", f"{values}: {finding}", differences)
    return Verdict("not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    figure = bars(
        {
            "return, second half of training": {name: late(rows, name) for name in ARMS},
            "highest mean Q-value": {name: highest_q(rows, name) for name in ARMS},
        }
    )
    figure.axes[1].axhline(BOUND, color="black", linewidth=0.8)
    for axes in figure.axes:
        axes.set_xticks(range(len(ARMS)), [name.replace(", ", "\n") for name in ARMS], fontsize=8)
    return figure
