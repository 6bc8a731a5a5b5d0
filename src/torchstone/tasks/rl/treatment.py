"""An agent that treats sepsis, beside the clinicians and the optimum: exact values from the known tables, and
what 1,000 episodes of clinicians would have said of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from torchstone.envs.icu_sepsis import ENV_ID, LEVELS, Sepsis, load_sepsis
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.rl.off_policy_evaluation import (
    ESTIMATORS,
    Estimate,
    bootstrap,
    effective_sample_size,
    importance_ratios,
)
from torchstone.parts.rl.tabular_mdp import Policy, sample_episodes
from torchstone.plots.treatment import draw_treatment

TABLES = "the package icu-sepsis"
PATIENTS = 4000  # simulated, of a validation
CLINICIANS_EPISODES = 1000  # from which the agent is estimated
RESAMPLES = 1000  # of these episodes, for intervals
VISITS = 20_000  # simulated patients, for how often doses are given
SOFA_BOUNDS = (5.0, 10.0)  # between mild, moderate and severe
SEVERITY = ("SOFA below 5", "SOFA 5 to 10", "SOFA above 10")


def is_known(model: Any, env: Mapping[str, Any]) -> bool:
    """Whether an agent's value follows from known tables: of this environment as it is, for a policy that has
    no memory."""
    is_plain = env["spec"] == ENV_ID and not env["wrappers"] and env["max_episode_steps"] is None
    return is_plain and not hasattr(model, "initial_state")


@torch.no_grad()
def greedy_policy(model: Any, sepsis: Sepsis) -> Policy:
    """What the agent does for each cluster of patients."""
    device, states = next(model.parameters()).device, sepsis.mdp.shape[0]
    observation = torch.eye(states, device=device)
    with eval_mode(model):
        if getattr(model, "uses_masks", False):
            action = model.greedy(observation, sepsis.mdp.is_admissible.to(device))
        else:
            action = model.greedy(observation)
    return sepsis.mdp.deterministic_policy(action.cpu())


def simulated_return(model: Any, seed: int) -> dict[str, float]:
    """The mean return of simulated patients: what training may know of a policy."""
    sepsis = load_sepsis()
    generator = torch.Generator().manual_seed(seed)
    episodes = sample_episodes(sepsis.mdp, greedy_policy(model, sepsis), PATIENTS, generator)
    return {"return": float(episodes.returns.mean())}


def exact_metrics(model: Any, seed: int) -> dict[str, float]:
    """The exact return beside those of the clinicians, of actions at random and of the optimum, and the
    off-policy estimates with their intervals."""
    sepsis = load_sepsis()
    mdp, policy = sepsis.mdp, greedy_policy(model, sepsis)
    optimal = mdp.deterministic_policy(mdp.value_iteration()[1])
    metrics = {
        "return": mdp.expected_return(policy),
        "clinicians_return": mdp.expected_return(sepsis.clinicians),
        "uniform_return": mdp.expected_return(mdp.uniform_policy()),
        "optimal_return": mdp.expected_return(optimal),
    }
    estimates, size = off_policy_estimates(policy, sepsis, seed)
    for name, estimate in estimates.items():
        metrics[f"off_policy/{name}"] = estimate.value
        metrics[f"off_policy_low/{name}"] = estimate.low
        metrics[f"off_policy_high/{name}"] = estimate.high
    return metrics | {"effective_episodes": size}


def off_policy_estimates(policy: Policy, sepsis: Sepsis, seed: int) -> tuple[dict[str, Estimate], float]:
    """Estimates of a policy from episodes of clinicians, and the effective number of these."""
    generator = torch.Generator().manual_seed(seed)
    episodes = sample_episodes(sepsis.mdp, sepsis.clinicians, CLINICIANS_EPISODES, generator)
    target = policy[episodes.state, episodes.action]
    behavior = sepsis.clinicians[episodes.state, episodes.action]
    rho = importance_ratios(target, behavior, episodes.is_on)
    found = {
        name: bootstrap(estimator, rho, episodes.reward, generator, resamples=RESAMPLES)
        for name, estimator in ESTIMATORS.items()
    }
    return found, effective_sample_size(rho[:, -1])


def severity_groups(sofa: Float64[Tensor, " states"]) -> list[Tensor]:
    """Which clusters are mild, moderate and severe."""
    low, high = SOFA_BOUNDS
    return [sofa < low, (sofa >= low) & (sofa <= high), sofa > high]


def report(model: Any, env: dict[str, Any], folder: Path, seed: int) -> None:
    """The picture of a run, where its agent's values are known."""
    if is_known(model, env):
        draw(model, folder / "treatment.png", seed)


def picture(model: Any, env: dict[str, Any], file: Path, seed: int) -> None:
    """
    Raises:
        BadInput: the agent's values are not known.
    """
    if not is_known(model, env):
        raise BadInput(f"a picture of {ENV_ID} is of an agent without memory, wrappers or another time limit")
    draw(model, file, seed)


def draw(model: Any, file: Path, seed: int) -> None:
    """Doses and survival by severity, of the agent, the clinicians and the optimum."""
    sepsis = load_sepsis()
    mdp, agent = sepsis.mdp, greedy_policy(model, sepsis)
    policies = {
        "agent": agent,
        "clinicians": sepsis.clinicians,
        "optimum": mdp.deterministic_policy(mdp.value_iteration()[1]),
    }
    groups = severity_groups(sepsis.sofa)
    doses: dict[str, list[np.ndarray]] = {name: [] for name in ("clinicians", "agent")}
    survival: dict[str, list[float]] = {}
    for name, policy in policies.items():
        value = mdp.state_values(policy)
        starts = [mdp.start * group for group in groups]
        survival[name] = [float(start @ value / start.sum()) for start in starts]
        if name not in doses:
            continue
        generator = torch.Generator().manual_seed(seed)
        episodes = sample_episodes(mdp, policy, VISITS, generator)
        for group in groups:
            chosen = episodes.action[episodes.is_on & group[episodes.state]]
            count = torch.bincount(chosen, minlength=LEVELS**2).double()
            doses[name].append((count / count.sum().clamp(min=1)).view(LEVELS, LEVELS).numpy())
    estimates, _ = off_policy_estimates(agent, sepsis, seed)
    draw_treatment(
        doses,
        survival,
        SEVERITY,
        {name: (each.value, each.low, each.high) for name, each in estimates.items()},
        mdp.expected_return(agent),
        file,
        "Treatment of sepsis: doses by severity, % of time steps; survival of patients who arrive so",
    )
