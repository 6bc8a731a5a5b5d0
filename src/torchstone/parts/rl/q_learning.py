"""What an action is worth, by what followed it and what is thought of the state that it led to."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import nll_loss

Row = Float[Tensor, " batch"]
Table = Float[Tensor, "batch actions"]


def taken(q: Table, action: Int64[Tensor, " batch"]) -> Row:
    """Q(s, a) of the actions that were taken."""
    return -nll_loss(q, action, reduction="none")  # whose way back is quicker than an index's


def target(reward: Row, discount: Row, following: Table, choice: Table | None = None) -> Row:
    """r + γ max_a Q'(s', a); with `choice`, r + γ Q'(s', argmax_a Q(s', a)): who chooses is not who judges,
    so that noise does not pass for worth (van Hasselt et al. 2016, arXiv:1509.06461, equation 4).

    Args:
        reward: of one step, or Σ_{k<n} γ^k r_{t+k} of n.
        discount: γ, or γⁿ; 0 where the episode terminated.
        following: Q'(s', ·), by the target network.
        choice: Q(s', ·), by the network that learns.
    """
    best = following.amax(1) if choice is None else taken(following, choice.argmax(1))
    return reward + discount * best


def importance(chance: Row, count: int, beta: float) -> Row:
    """Weights (N · P(i))^-β over the largest of the batch: what makes a mean over rows drawn with chances P
    one over all N rows, wholly so at β = 1 (Schaul et al. 2016, arXiv:1511.05952, section 3.4)."""
    weight = (count * chance).pow(-beta)
    return (weight / weight.max()).to(torch.float32)
