"""Rewards clipped to their sign fit one learning rate to all games, and lose what sizes say."""

from dataclasses import replace
from typing import Any

import numpy as np

from torchstone.experiments.agents import mean
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.q_learning import RECIPE, late, measure_arms

CLAIM = Claim(
    "clipping",
    "Clipping rewards lets DQN learn with one setting whatever the scale of the rewards.",
    "Mnih et al. 2015; van Hasselt et al. 2016b",
    "DQN on CartPole, 9,984 steps, with rewards clipped to their sign, and with rewards times 1 and "
    "times 100: the mean return over the second half of the training, in units of the reward.",
    "A corridor of nine cells with 1 at its near end and 10 at its far end, where the size is what "
    "counts: there clipping must lose.",
    minutes=2,
    seeds=(0, 1, 2, 3, 4),
)
HERE = "torchstone.experiments.claims.clipping"
SCALED = f"{HERE}:ScaledReward:factor=100.0"
ARMS = {
    "clipped": {"clip_rewards": True},  # the very same training whatever the factor
    "plain, × 1": {"clip_rewards": False},
    "plain, × 100": {"clip_rewards": False, "wrappers": (SCALED,)},
}
CORRIDOR = {"clipped, corridor": {"clip_rewards": True}, "plain, corridor": {"clip_rewards": False}}
CORRIDOR_RECIPE = replace(
    RECIPE,
    data=f"{HERE}:Corridor",
    hidden=(32, 32),
    gamma=0.97,
    total_timesteps=128 * 32,
    max_episode_steps=30,
)


def measure(seed: int) -> Row:
    row = measure_arms(ARMS, seed)
    for name in ARMS:
        if name.endswith("100"):  # evaluation has the wrapper too
            row[name]["returns"] = [value / 100 for value in row[name]["returns"]]
    return row | measure_arms(CORRIDOR, seed, CORRIDOR_RECIPE)


def judge(rows: list[Row]) -> Verdict:
    clipped, plain, plain_large = ARMS
    clipped_corridor, plain_corridor = CORRIDOR
    helps = paired("return, clipped − plain, × 100", late(rows, clipped), late(rows, plain_large))
    differences = [
        helps,
        paired("return, clipped − plain, × 1", late(rows, clipped), late(rows, plain)),
        paired("return, plain − clipped, corridor", late(rows, plain_corridor), late(rows, clipped_corridor)),
    ]
    finding = "return " + ", ".join(f"{name}: {mean(late(rows, name)):.1f}" for name in (*ARMS, *CORRIDOR))
    if not helps.is_above_zero:
        return Verdict("not seen here", finding, differences)
    if differences[2].is_above_zero:
        return Verdict("holds only when", f"the size of a reward says nothing: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    return bars(
        {
            "CartPole, return over the factor": {name.replace(", ", "\n"): late(rows, name) for name in ARMS},
            "corridor": {name.split(",")[0]: late(rows, name) for name in CORRIDOR},
        }
    )


class ScaledReward:
    """A wrapper that multiplies rewards by `factor`."""

    def __new__(cls, env: Any, factor: float = 1.0) -> Any:
        from gymnasium.wrappers import TransformReward

        return TransformReward(env, lambda reward: factor * float(reward))


def Corridor() -> Any:  # noqa: N802  named as an environment is
    """Nine cells in a row; one begins at the third. The left end gives 1, the right end 10, and both end the
    episode; action 1 goes to the right."""
    import gymnasium

    class CorridorEnv(gymnasium.Env):
        length, start = 9, 2
        observation_space = gymnasium.spaces.Box(0.0, 1.0, (9,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def observation(self) -> np.ndarray:
            return np.eye(self.length, dtype=np.float32)[self.cell]

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
            super().reset(seed=seed)
            self.cell = self.start
            return self.observation(), {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            self.cell += 1 if action == 1 else -1
            reward = {0: 1.0, self.length - 1: 10.0}.get(self.cell, 0.0)
            return self.observation(), reward, reward > 0, False, {}

    return CorridorEnv()
