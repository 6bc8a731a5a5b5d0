"""Steps within a trust region rarely make a policy worse: measured by its exact value."""

import itertools
from dataclasses import replace
from typing import Any

import torch

from torchstone.envs.make import make_env
from torchstone.experiments.agents import mean, train_agent
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.systems.reinforcement import trpo

CLAIM = Claim(
    "trust-region",
    "Updates within a trust region improve the policy monotonically.",
    "Kakade and Langford 2002; Schulman et al. 2015",
    "TRPO on Frozen Lake (16 states, slippery), 40 updates of 2,048 steps, with regions of 0.003 to 3 "
    "nats and the same line search. Transition probabilities are known, so the value of the policy at the "
    "start is computed exactly after each update: the share of updates by which it falls by more than "
    "0.001, and the largest fall.",
    "Wider regions must lose more often; but a policy that has lost everything can lose no more. The "
    "theorem is of exact expectations: with 256 steps an update the same region should lose more often.",
    minutes=2,
)
REGIONS = (0.003, 0.03, 0.3, 3.0)  # nats
GAMMA, TOLERANCE = 0.99, 1e-3
RARE = 0.05  # share of updates that may lose where improvement counts as monotonic
RECIPE = replace(
    trpo.RECIPES["smoke"],
    data="FrozenLake-v1",
    wrappers=("FlattenObservation",),
    num_envs=8,
    num_steps=256,
    total_timesteps=40 * 2048,
    gamma=GAMMA,
)
FEW = replace(RECIPE, num_steps=32, total_timesteps=40 * 256, target_kl=0.03)


def measure(seed: int) -> Row:
    """The exact value after each update, in each region; and of a small region with few steps an update."""
    exact = ExactValue()
    row: Row = {"values": []}
    for target_kl in REGIONS:
        recipe = replace(RECIPE, target_kl=target_kl, seed=seed)
        row["values"].append(exact_values(recipe, exact))
    row["few"] = exact_values(replace(FEW, seed=seed), exact)
    return row


def exact_values(recipe: trpo.Recipe, exact: "ExactValue") -> list[float]:
    """Before each update and after the last."""
    history = train_agent(trpo.build, recipe, before_update=exact)
    return [*history.column("value"), exact(history.model)["value"]]


class ExactValue:
    """The discounted value of a policy at the start of Frozen Lake: V = (I − γ P_π)⁻¹ r_π."""

    def __init__(self) -> None:
        env, _ = make_env(RECIPE.data, (), None)
        table = env.unwrapped.P
        states, actions = len(table), len(table[0])
        self.transition = torch.zeros(states, actions, states, dtype=torch.float64)
        self.reward = torch.zeros(states, actions, dtype=torch.float64)
        for state in range(states):
            for action in range(actions):
                for probability, following, reward, is_end in table[state][action]:
                    self.reward[state, action] += probability * reward
                    if not is_end:
                        self.transition[state, action, following] += probability

    @torch.no_grad()
    def __call__(self, model: Any, batch: Any = None) -> dict[str, float]:
        states = len(self.reward)
        pi = model.policy(torch.eye(states), None).logits.double().softmax(1)
        transition = torch.einsum("sa,sat->st", pi, self.transition)
        reward = (pi * self.reward).sum(1)
        identity = torch.eye(states, dtype=torch.float64)
        return {"value": torch.linalg.solve(identity - GAMMA * transition, reward)[0].item()}


def lost_share(values: list[float]) -> float:
    """The share of updates after which the value is lower than before."""
    falls = [after < before - TOLERANCE for before, after in itertools.pairwise(values)]
    return sum(falls) / len(falls)


def largest_fall(values: list[float]) -> float:
    """Of one update."""
    return max(0.0, *(before - after for before, after in itertools.pairwise(values)))


def judge(rows: list[Row]) -> Verdict:
    def lost(i: int) -> list[float]:
        return [lost_share(row["values"][i]) for row in rows]

    def fall(i: int) -> list[float]:
        return [largest_fall(row["values"][i]) for row in rows]

    few = [lost_share(row["few"]) for row in rows]
    smallest, usual = REGIONS[0], 1
    wider = [
        paired(f"updates that lose, {region:g} − {smallest:g} nats", lost(i), lost(0))
        for i, region in enumerate(REGIONS)
        if i
    ]
    differences = [
        *wider,
        paired(f"largest fall, {REGIONS[2]:g} − {smallest:g} nats", fall(2), fall(0)),
        paired(f"updates that lose at {REGIONS[usual]:g} nats, 256 − 2,048 steps", few, lost(usual)),
    ]
    finding = "; ".join(
        f"{region:g} nats: {mean(lost(i)):.0%} of the updates lose, by {mean(fall(i)):.3f} at most, value "
        f"at the end {mean([row['values'][i][-1] for row in rows]):.3f}"
        for i, region in enumerate(REGIONS)
    )
    finding += f"; {REGIONS[usual]:g} nats with 256 steps an update: {mean(few):.0%} lose"
    monotonic = [region for i, region in enumerate(REGIONS) if mean(lost(i)) <= RARE]
    if not any(each.is_above_zero for each in wider) or smallest not in monotonic:
        return Verdict("not seen here", finding, differences)
    if REGIONS[usual] in monotonic:
        return Verdict("holds", finding, differences)
    return Verdict("holds only when", f"the region is as small as {smallest:g} nats: {finding}", differences)


def draw(rows: list[Row]) -> Any:
    panels = {
        "share of updates that lose": {
            "TRPO": [[lost_share(values) for values in row["values"]] for row in rows]
        },
        "largest fall of the value": {
            "TRPO": [[largest_fall(values) for values in row["values"]] for row in rows]
        },
        "value at the end": {"TRPO": [[values[-1] for values in row["values"]] for row in rows]},
    }
    return curves(panels, REGIONS, "trust region in nats", xscale="log")
