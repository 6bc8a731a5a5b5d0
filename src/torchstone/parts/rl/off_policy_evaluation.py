"""Off-policy evaluation: what a policy would have earned, by the episodes of another one.

    ρ_t   = Π_{k≤t} π(a_k|s_k) / b(a_k|s_k)
    OIS   = 1/n Σ_i ρ^i_T G^i                       unbiased, of large variance
    WIS   = Σ_i ρ^i_T G^i / Σ_i ρ^i_T               biased towards the behavior's return, consistent
    PDIS  = 1/n Σ_i Σ_t γ^t ρ^i_t r^i_t             a reward is weighted by what led to it alone
    WPDIS = Σ_t γ^t Σ_i ρ^i_t r^i_t / Σ_i ρ^i_t

Source: Precup, Sutton and Singh, "Eligibility traces for off-policy policy evaluation", ICML 2000; Sutton
and Barto 2018, sections 5.5 and 5.9. An episode that is over keeps its last ρ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

Steps = Float64[Tensor, "episodes time"]


@dataclass(frozen=True)
class Estimate:
    """A point, and the bounds of its interval."""

    value: float
    low: float
    high: float


def importance_ratios(target: Steps, behavior: Steps, is_on: Bool[Tensor, "episodes time"]) -> Steps:
    """ρ_t of probabilities of the actions that were taken; steps behind an end count as 1.

    Raises:
        ValueError: an action that the behavior policy never takes.
    """
    if bool(((behavior <= 0) & is_on).any()):
        raise ValueError("an action has probability 0 under the policy that took it")
    ratio = torch.where(is_on, target / behavior, torch.ones_like(target))
    return ratio.cumprod(1)


def ordinary(rho: Steps, reward: Steps, gamma: float = 1.0) -> Float64[Tensor, ""]:
    """OIS."""
    return (rho[:, -1] * discounted(reward, gamma)).mean()


def weighted(rho: Steps, reward: Steps, gamma: float = 1.0) -> Float64[Tensor, ""]:
    """WIS; 0 where no episode has a weight."""
    weight = rho[:, -1]
    return (weight * discounted(reward, gamma)).sum() / weight.sum().clamp(min=1e-300)


def per_decision(rho: Steps, reward: Steps, gamma: float = 1.0) -> Float64[Tensor, ""]:
    """PDIS."""
    return discounted(rho * reward, gamma).mean()


def weighted_per_decision(rho: Steps, reward: Steps, gamma: float = 1.0) -> Float64[Tensor, ""]:
    """WPDIS."""
    mean = (rho * reward).sum(0) / rho.sum(0).clamp(min=1e-300)
    return discounted(mean[None], gamma)[0]


ESTIMATORS: dict[str, Callable[..., Tensor]] = {
    "ordinary": ordinary,
    "weighted": weighted,
    "per_decision": per_decision,
    "weighted_per_decision": weighted_per_decision,
}


def discounted(reward: Steps, gamma: float) -> Float64[Tensor, " episodes"]:
    """Σ_t γ^t r_t."""
    powers = gamma ** torch.arange(reward.shape[1], dtype=reward.dtype)
    return reward @ powers


def effective_sample_size(weight: Float64[Tensor, " episodes"]) -> float:
    """(Σ w)² / Σ w²: as many episodes of equal weight would vary as much (Kong 1992)."""
    return float(weight.sum().square() / weight.square().sum().clamp(min=1e-300))


def bootstrap(
    estimator: Callable[..., Tensor],
    rho: Steps,
    reward: Steps,
    generator: torch.Generator,
    *,
    resamples: int = 1000,
    coverage: float = 0.95,
) -> Estimate:
    """An estimate, and its percentile interval over episodes drawn anew with replacement (Efron 1979)."""
    draws = torch.randint(len(rho), (resamples, len(rho)), generator=generator)
    values = torch.stack([estimator(rho[index], reward[index]) for index in draws])
    tail = (1 - coverage) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return Estimate(float(estimator(rho, reward)), low, high)
