"""An agent that also learns in its model needs fewer real steps, if rollouts are short."""

from dataclasses import replace
from typing import Any

from torchstone.experiments.agents import mean, train_agent
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.systems.planning import mbpo

CLAIM = Claim(
    "model-efficient",
    "Learning a model of the environment saves real steps.",
    "Sutton 1990; Janner et al. 2019",
    "Pendulum, 800 steps, 40 updates of SAC after every 10 of them: on the real transitions alone, and on "
    "MBPO's rollouts of an ensemble of five from real states, of 1 to 4 steps, and of 30: the mean return "
    "of eight greedy episodes at eight times.",
    "The number of updates is the same, so that reuse alone cannot tell. Rollouts of 30 steps: if the "
    "model's errors were harmless, they would be as good.",
    minutes=3,
)
EVALUATIONS = 8
RECIPE = replace(
    mbpo.PENDULUM,
    ensemble_size=5,
    num_elites=3,
    model_hidden=(64, 64),
    model_epochs=40,
    model_patience=5,
    rollouts_per_step=100,
    gradient_steps=40,
    batch_size=128,
    total_timesteps=600,
    eval_episodes=8,
    record_video=False,
)
ARMS: dict[str, dict[str, Any]] = {
    "no model": {"real_ratio": 1.0},
    "1 to 4 steps": {},
    "30 steps": {"min_rollout_length": 30, "max_rollout_length": 30, "rollouts_per_step": 10},
}


def measure(seed: int) -> Row:
    row: Row = {}
    for name, fields in ARMS.items():
        history = train_agent(mbpo.build, replace(RECIPE, seed=seed, **fields), evaluations=EVALUATIONS)
        row[name] = history.returns()[1:]
    return row


def judge(rows: list[Row]) -> Verdict:
    def late(name: str) -> list[float]:
        """Mean return of the last quarter of the evaluations."""
        return [mean(row[name][-(EVALUATIONS // 4) :]) for row in rows]

    free, short, long = ARMS
    saves = paired("return, model − no model", late(short), late(free))
    exploited = paired("return, 1 to 4 steps − 30 steps", late(short), late(long))
    helps = paired("return, 30 steps − no model", late(long), late(free))
    differences = [saves, exploited, helps]
    finding = "return after 700 and 800 real steps: " + ", ".join(
        f"{name} {mean(late(name)):.0f}" for name in ARMS
    )
    if not saves.is_above_zero:
        return Verdict("not seen here", finding, differences)
    if exploited.is_above_zero:
        return Verdict("holds only when", f"rollouts are short: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    steps = [200 + 600 // EVALUATIONS * (i + 1) for i in range(EVALUATIONS)]
    panels = {"return on Pendulum": {name: [row[name] for row in rows] for name in ARMS}}
    return curves(panels, steps, "real steps")
