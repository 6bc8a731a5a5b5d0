"""A baseline lowers the variance of the policy gradient's estimate, and so agents learn faster."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch

from torchstone.experiments.agents import History, mean, train_agent
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.parts.flat_gradient import flat_gradient
from torchstone.systems.reinforcement import reinforce

CLAIM = Claim(
    "reinforce-variance",
    "A baseline reduces the variance of the policy gradient, and the agent learns faster.",
    "Williams 1992; Greensmith, Bartlett and Baxter 2004",
    "REINFORCE on CartPole, 400 episodes, with a learned baseline, the mean return of the batch, and "
    "none. Variance of one episode's gradient estimate, of the same policy and the same episodes with "
    "each baseline, through the training with the learned one; and each agent's mean return over the last "
    "quarter of its own training.",
    "The mean of the estimates must stay: what the baseline removes must not be the gradient itself. The "
    "mean return, a constant, must do part of what the learned baseline does.",
    minutes=2,
)
Baseline = Literal["learned", "mean", "none"]
BASELINES: tuple[Baseline, ...] = ("learned", "mean", "none")
RECIPE = replace(reinforce.CARTPOLE, total_episodes=400, anneal_lr=False, record_video=False)
EVERY = 2  # updates between those whose estimates are compared


def measure(seed: int) -> Row:
    """Mean log variance with each baseline and the cosine of the mean estimates; returns of the episodes."""
    row: Row = {"log_variance": {}, "cosine": {}, "returns": {}}
    for baseline in BASELINES:
        recipe = replace(RECIPE, baseline=baseline, seed=seed)
        compared = Comparison(recipe) if baseline == "learned" else None
        history: History = train_agent(reinforce.build, recipe, before_update=compared)
        row["returns"][baseline] = history.column("episodic_return")
        if compared is not None:
            for name in BASELINES:
                row["log_variance"][name] = mean(history.column(f"log_variance_{name}"))
                row["cosine"][name] = mean(history.column(f"cosine_{name}"))
    return row


class Comparison:
    """The estimates of a batch's episodes with each baseline: a hook before an update."""

    def __init__(self, recipe: reinforce.Recipe):
        self.recipe, self.number = recipe, 0

    def __call__(self, model: Any, batch: Any) -> dict[str, float]:
        self.number += 1
        if self.number % EVERY:
            return {}
        estimates = {name: self.estimates(model, batch, name) for name in BASELINES}
        reference = estimates["none"].mean(0)
        found = {}
        for name, each in estimates.items():
            variance = each.var(0).sum().item()
            found[f"log_variance_{name}"] = math.log(max(variance, 1e-30))
            found[f"cosine_{name}"] = torch.cosine_similarity(each.mean(0), reference, dim=0).item()
        return found

    def estimates(self, model: Any, batch: Any, baseline: Baseline) -> torch.Tensor:
        """Σ_t ∇ log π(a_t|s_t) (G_t − b(s_t)) of each episode, in units of returns."""
        rollout, is_live = batch
        recipe = replace(self.recipe, baseline=baseline)
        returns, advantage = reinforce.returns_and_advantages(model, rollout, is_live, recipe)
        advantage = advantage * reinforce.deviation(returns[is_live])
        rows = []
        for env in range(is_live.shape[1]):
            live = is_live[:, env]
            policy, _ = model.policy_and_value(rollout.observation[live, env], None)
            objective = (policy.log_prob(rollout.action[live, env]) * advantage[live, env]).sum()
            rows.append(flat_gradient(objective, list(model.actor.parameters())))
        return torch.stack(rows)


def judge(rows: list[Row]) -> Verdict:
    def variance(name: str) -> list[float]:
        return [row["log_variance"][name] for row in rows]

    def last(name: str) -> list[float]:
        """Mean return over the last quarter of the updates."""
        quarters = [row["returns"][name][-(len(row["returns"][name]) // 4) :] for row in rows]
        return [mean(quarter) for quarter in quarters]

    smaller = paired("log variance, none − learned", variance("none"), variance("learned"))
    constant = paired("log variance, none − mean", variance("none"), variance("mean"))
    better = paired("return, learned − none", last("learned"), last("none"))
    cosine = mean([row["cosine"]["learned"] for row in rows])
    ratio = {name: math.exp(mean(variance(name)) - mean(variance("none"))) for name in BASELINES}
    finding = (
        f"the variance is {ratio['learned']:.2f} times that without a baseline with a learned one, "
        f"{ratio['mean']:.2f} times with the mean return; the mean of the estimates has a cosine of "
        f"{cosine:.2f} with that without; returns at the end "
        + ", ".join(f"{name} {mean(last(name)):.0f}" for name in BASELINES)
    )
    differences = [smaller, constant, better]
    if not smaller.is_above_zero:
        return Verdict("not seen here", finding, differences)
    if not better.is_above_zero:
        return Verdict("holds only when", f"variance is meant, not the return: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    def ratios(name: str) -> list[float]:
        return [math.exp(row["log_variance"][name] - row["log_variance"]["none"]) for row in rows]

    panels: dict[str, dict[str, list[float]]] = {
        "variance over that without a baseline": {name: ratios(name) for name in BASELINES},
        "return over the last quarter of training": {
            name: [mean(r["returns"][name][-(len(r["returns"][name]) // 4) :]) for r in rows]
            for name in BASELINES
        },
    }
    return bars(panels)
