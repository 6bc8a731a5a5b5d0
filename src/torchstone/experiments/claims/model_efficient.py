"""A model of the environment saves real steps beside SAC, and none beside as many updates without it."""

import math
from dataclasses import replace
from typing import Any

from torchstone.experiments.agents import mean, steps_until, train_agent
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.systems.planning import mbpo
from torchstone.systems.reinforcement import sac

CLAIM = Claim(
    "model-efficient",
    "Learning a model of the environment saves real steps.",
    "Sutton 1990; Janner et al. 2019",
    "Pendulum: real steps to a return of −200 in validation, of SAC's recipe (an update a step), of "
    "MBPO's (ten updates a step, on rollouts of its model of 1 to 4 steps), and of MBPO's recipe without "
    "a model. The record holds the runs of the recipes that docs/LOG.md tells of (mbpo, 2026-11-30), "
    "three seeds of which have all three.",
    "The same recipe without the model: as many updates, all on real transitions. If it is as good, it is "
    "the updates and not the model that save steps.",
    minutes=6,
    seeds=(0, 2, 4),
)
LEVEL = -200.0
SAC = sac.PENDULUM
MBPO = mbpo.PENDULUM
# name -> system, recipe, evaluations: every 200 steps, and every 40
ARMS: dict[str, tuple[Any, Any, int]] = {
    "SAC": (sac, SAC, 95),
    "MBPO": (mbpo, MBPO, 20),
    "MBPO, no model": (mbpo, replace(MBPO, real_ratio=1.0), 20),
}


def measure(seed: int) -> Row:
    """Real steps to the level, those of the whole training where it is not reached."""
    row: Row = {}
    for name, (system, recipe, evaluations) in ARMS.items():
        history = train_agent(
            system.build,
            replace(recipe, seed=seed, record_video=False),
            evaluations=evaluations,
            stop_when=lambda metrics: metrics["return"] >= LEVEL,
        )
        steps = steps_until(history, LEVEL)
        row[name] = history.updates[-1]["env_steps"] if steps is None else steps
    return row


def judge(rows: list[Row]) -> Verdict:
    def logs(name: str) -> list[float]:
        return [math.log10(row[name]) for row in rows]

    beside_sac = paired("log10 steps, SAC − MBPO", logs("SAC"), logs("MBPO"))
    beside_same = paired("log10 steps, no model − MBPO", logs("MBPO, no model"), logs("MBPO"))
    differences = [beside_sac, beside_same]
    finding = f"steps to {LEVEL:g}: " + ", ".join(
        f"{name} {mean([row[name] for row in rows]):,.0f}" for name in ARMS
    )
    if not beside_sac.is_above_zero:
        return Verdict("not seen here", finding, differences)
    if not beside_same.is_above_zero:
        condition = "compared with SAC's single update a step; with as many updates the model saves nothing"
        return Verdict("holds only when", f"{condition}: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    return bars(
        {f"real steps to a return of {LEVEL:g}": {name: [row[name] for row in rows] for name in ARMS}}
    )
