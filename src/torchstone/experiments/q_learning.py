"""DQN on CartPole with each of its devices on and off: what three claims share."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torchstone.experiments.agents import mean, train_agent
from torchstone.experiments.claim import Row
from torchstone.experiments.figures import curves
from torchstone.systems.reinforcement import dqn

EVALUATIONS = 6
# a short training, at a constant rate, with the targets of the paper: one step of reward
RECIPE = replace(
    dqn.CARTPOLE,
    n_step=1,
    num_steps=128,
    gradient_steps=64,
    batch_size=64,
    learning_starts=1000,
    exploration_steps=4000,
    target_update_interval=2,
    anneal_lr=False,
    total_timesteps=128 * 78,
    eval_episodes=8,
    record_video=False,
)


def measure_arms(arms: Mapping[str, Mapping[str, Any]], seed: int, base: dqn.Recipe = RECIPE) -> Row:
    """Returns of eight greedy episodes at each evaluation, and the largest mean Q-value of an update.

    Args:
        arms: name -> fields of the recipe.
    """
    row: Row = {}
    for name, fields in arms.items():
        history = train_agent(dqn.build, replace(base, seed=seed, **fields), evaluations=EVALUATIONS)
        row[name] = {"returns": history.returns()[1:], "q": max(history.column("q_value"))}
    return row


def late(rows: list[Row], name: str) -> list[float]:
    """The mean return of the second half of the evaluations, a seed."""
    return [mean(row[name]["returns"][EVALUATIONS // 2 :]) for row in rows]


def highest_q(rows: list[Row], name: str) -> list[float]:
    return [row[name]["q"] for row in rows]


def draw_returns(rows: list[Row], title: str = "return of greedy episodes") -> Any:
    steps = [RECIPE.total_timesteps // EVALUATIONS * (i + 1) for i in range(EVALUATIONS)]
    panels = {title: {name: [row[name]["returns"] for row in rows] for name in rows[0]}}
    return curves(panels, steps, "steps of the environment")
