"""Clipping the probability ratio lets an agent reuse a rollout often without ruin."""

from dataclasses import replace
from typing import Any

from torchstone.experiments.agents import mean, moving_mean, train_agent, worst_drop
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.systems.reinforcement import ppo

CLAIM = Claim(
    "ppo-clips",
    "PPO's clipping prevents ruinous updates.",
    "Schulman et al. 2017",
    "PPO on CartPole, 30,720 steps in rollouts of 1,024, at a constant rate of 0.001, with ε = 0.2 and "
    "without clipping, for 2, 10 and 40 epochs a rollout: the largest fall of the training return, as "
    "means of three updates, from one time to a later one, and the mean return of the last quarter.",
    "With few epochs the policy hardly leaves the one that collected the rollout: clipping must not matter.",
    minutes=2,
)
EPOCHS = (2, 10, 40)
ARMS = {"clipped": 0.2, "not clipped": 1e6}
RECIPE = replace(ppo.CARTPOLE, total_timesteps=30_720, num_steps=128, anneal_lr=False, record_video=False)
WINDOW = 3  # updates


def measure(seed: int) -> Row:
    """Training returns of each update and the KL divergence that it ended with, at each number of epochs."""
    row: Row = {name: {"returns": [], "kl": []} for name in ARMS}
    for name, clip_coef in ARMS.items():
        for epochs in EPOCHS:
            recipe = replace(RECIPE, clip_coef=clip_coef, epochs=epochs, seed=seed)
            history = train_agent(ppo.build, recipe)
            row[name]["returns"].append([round(value, 2) for value in history.column("episodic_return")])
            row[name]["kl"].append(mean(history.column("approx_kl")))
    return row


def drops(rows: list[Row], name: str, i: int) -> list[float]:
    return [worst_drop(moving_mean(row[name]["returns"][i], WINDOW)) for row in rows]


def ends(rows: list[Row], name: str, i: int) -> list[float]:
    returns = [row[name]["returns"][i] for row in rows]
    return [mean(each[-(len(each) // 4) :]) for each in returns]


def judge(rows: list[Row]) -> Verdict:
    clipped, free = ARMS
    larger = [
        paired(
            f"largest fall of the return, {epochs} epochs, not clipped − clipped",
            drops(rows, free, i),
            drops(rows, clipped, i),
        )
        for i, epochs in enumerate(EPOCHS)
    ]
    better = [
        paired(
            f"return at the end, {epochs} epochs, clipped − not clipped",
            ends(rows, clipped, i),
            ends(rows, free, i),
        )
        for i, epochs in enumerate(EPOCHS)
    ]
    finding = "; ".join(
        f"with {epochs} epochs the return falls by {mean(drops(rows, clipped, i)):.0f} at most with "
        f"clipping and {mean(drops(rows, free, i)):.0f} without, and ends at "
        f"{mean(ends(rows, clipped, i)):.0f} and {mean(ends(rows, free, i)):.0f}"
        for i, epochs in enumerate(EPOCHS)
    )
    differences = larger + better
    helps = [a.is_above_zero or b.is_above_zero for a, b in zip(larger, better, strict=True)]
    if all(helps):
        return Verdict("holds", finding, differences)
    if helps[-1]:
        fewest = next(epochs for i, epochs in enumerate(EPOCHS) if all(helps[i:]))
        return Verdict("holds only when", f"there are {fewest} epochs or more: {finding}", differences)
    return Verdict("not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    panels = {
        "largest fall of the return": {
            name: [[drops([row], name, i)[0] for i in range(len(EPOCHS))] for row in rows] for name in ARMS
        },
        "return at the end": {
            name: [[ends([row], name, i)[0] for i in range(len(EPOCHS))] for row in rows] for name in ARMS
        },
        "KL divergence of an update": {name: [row[name]["kl"] for row in rows] for name in ARMS},
    }
    figure = curves(panels, EPOCHS, "epochs a rollout", xscale="log")
    figure.axes[2].set_yscale("log")
    return figure
