"""Exact values of iterated games of two players with two actions, both with memory of one step.

A policy is the probability of action 0 in five states: at the start, and after each pair of actions (first
player's, second player's) = 00, 01, 10, 11. Both players' policies have this one order, so that in state 01
the second player's own last action is 1. The pairs of actions are a Markov chain, and with p₀ over the first
pair and P between pairs

    V_i = (1-γ) p₀ᵀ (I - γP)⁻¹ r_i

is player i's discounted mean payoff per step (Foerster et al. 2018, arXiv:1709.04326, section 5.1, there
without the factor).
"""

import torch
from jaxtyping import Float
from torch import Tensor

STATES = 5  # the start, and after 00, 01, 10, 11

Policies = Float[Tensor, "*pair player state"]


def joint_probabilities(policy: Policies) -> Float[Tensor, "*pair state joint"]:
    """Of each pair of actions (00, 01, 10, 11) in each state."""
    first, second = policy.unbind(-2)
    first = torch.stack([first, 1 - first], -1)
    second = torch.stack([second, 1 - second], -1)
    return (first[..., :, None] * second[..., None, :]).flatten(-2)


def visits(policy: Policies, gamma: float) -> Float[Tensor, "*pair joint"]:
    """Discounted share of the steps at which each pair of actions is played: (1-γ) p₀ᵀ (I - γP)⁻¹."""
    joint = joint_probabilities(policy)
    start, transition = joint[..., 0, :], joint[..., 1:, :]
    matrix = torch.eye(4, dtype=policy.dtype, device=policy.device) - gamma * transition
    return (1 - gamma) * torch.linalg.solve(matrix.mT, start[..., None])[..., 0]


def mean_payoffs(
    policy: Policies, payoff: Float[Tensor, "player first second"], gamma: float
) -> Float[Tensor, "*pair player"]:
    """V of both players.

    Args:
        policy: probability of action 0 by player and state.
        payoff: of each player, by the first player's action and the second's.
        gamma: discount factor γ, below 1.
    """
    return visits(policy, gamma) @ payoff.flatten(1).mT
