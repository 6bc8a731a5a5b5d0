"""Off-policy agents need fewer steps of the environment, and more computation for each."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from torchstone.experiments.agents import mean, train_agent
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame
from torchstone.systems.reinforcement import ddpg, ppo, sac

CLAIM = Claim(
    "off-policy-efficient",
    "Off-policy learning needs fewer samples than on-policy learning.",
    "Lillicrap et al. 2015; Haarnoja et al. 2018; Schulman et al. 2017",
    "Pendulum: steps of the environment, and CPU seconds of training, to a return of −200 in eight greedy "
    "episodes, by DDPG and SAC (an update of 128 transitions a step, at most 5,400 steps) and PPO (at "
    "most 49,152 steps).",
    "Seconds must be able to come out the other way round: PPO's updates are few and large.",
    minutes=3,
)
EVALUATIONS, LEVEL = 24, -200.0
RECIPES = {
    "DDPG": (ddpg, replace(ddpg.PENDULUM, total_timesteps=4400, anneal_lr=False)),
    "SAC": (sac, replace(sac.PENDULUM, total_timesteps=4400, anneal_lr=False)),
    "PPO": (ppo, replace(ppo.RECIPES["pendulum"], total_timesteps=49_152, anneal_lr=False)),
}


def measure(seed: int) -> Row:
    """Steps and CPU seconds at each evaluation, and its return."""
    row: Row = {}
    for name, (system, recipe) in RECIPES.items():
        recipe = replace(recipe, seed=seed, eval_episodes=8, record_video=False)
        history = train_agent(system.build, recipe, evaluations=EVALUATIONS)
        count = len(history.updates)
        after = history.evaluated_after[1:]
        row[name] = {
            "steps": [history.updates[updates - 1]["env_steps"] for updates in after],
            "seconds": [round(history.seconds * updates / count, 2) for updates in after],
            "returns": [round(value, 1) for value in history.returns()[1:]],
        }
    return row


def until(row: Row, name: str, key: str) -> float:
    """Steps or seconds at the first evaluation that reaches the level; of the whole training if none does."""
    reached = [i for i, value in enumerate(row[name]["returns"]) if value >= LEVEL]
    return row[name][key][reached[0] if reached else -1]


def judge(rows: list[Row]) -> Verdict:
    def logs(name: str, key: str) -> list[float]:
        return [math.log10(until(row, name, key)) for row in rows]

    off_policy = ("DDPG", "SAC")
    fewer = [
        paired(f"log10 steps, PPO − {name}", logs("PPO", "steps"), logs(name, "steps")) for name in off_policy
    ]
    slower = [
        paired(f"log10 seconds, {name} − PPO", logs(name, "seconds"), logs("PPO", "seconds"))
        for name in off_policy
    ]
    reached = {name: sum(max(row[name]["returns"]) >= LEVEL for row in rows) for name in RECIPES}
    finding = "; ".join(
        f"{name} takes {10 ** mean(logs(name, 'steps')):,.0f} steps and "
        f"{10 ** mean(logs(name, 'seconds')):.1f} CPU seconds ({reached[name]} of {len(rows)} seeds reach "
        f"{LEVEL:g})"
        for name in RECIPES
    )
    if not all(each.is_above_zero for each in fewer) or min(reached[name] for name in off_policy) < len(rows):
        return Verdict("not seen here", finding, fewer + slower)
    if any(each.is_above_zero for each in slower):
        return Verdict("holds only when", f"steps are counted, not seconds: {finding}", fewer + slower)
    return Verdict("holds", finding, fewer + slower)


def draw(rows: list[Row]) -> Any:
    figure = canvas(9.6, 3.4)
    for axes, (key, label) in zip(
        figure.subplots(1, 2),
        (("steps", "steps of the environment"), ("seconds", "CPU seconds")),
        strict=True,
    ):
        frame(axes, f"return over {label}")
        for color, name in zip(PALETTE, RECIPES, strict=False):
            x = np.mean([row[name][key] for row in rows], 0)
            returns = np.asarray([row[name]["returns"] for row in rows])
            axes.plot(x, returns.mean(0), "o-", ms=3, color=color, label=name)
            axes.fill_between(x, returns.min(0), returns.max(0), color=color, alpha=0.15, linewidth=0)
        axes.axhline(LEVEL, color="black", linewidth=0.8)
        axes.set(xscale="log")
        axes.set_xlabel(label, fontsize=9)
        axes.legend(**LEGEND)
    return figure
