"""Q-learning targets, and the importance weights of prioritized replay."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import nll_loss

Scalars = Float[Tensor, " batch"]
QValues = Float[Tensor, "batch actions"]


def q_of_action(q: QValues, action: Int64[Tensor, " batch"]) -> Scalars:
    """Q(s, a) of the given actions."""
    return -nll_loss(q, action, reduction="none")  # its backward pass is faster than that of indexing


def td_target(
    reward: Scalars, discount: Scalars, next_q: QValues, online_next_q: QValues | None = None
) -> Scalars:
    """The TD target r + γ max_a Q'(s', a); with `online_next_q` that of double Q-learning.

    Double Q-learning selects the action by one network and evaluates it by the other,
    r + γ Q'(s', argmax_a Q(s', a)), so that noise does not inflate the maximum (van Hasselt et al. 2016,
    arXiv:1509.06461, equation 4).

    Args:
        reward: of one step, or Σ_{k<n} γ^k r_{t+k} of n.
        discount: γ, or γⁿ; 0 where the episode terminated.
        next_q: Q'(s', ·) of the target network.
        online_next_q: Q(s', ·) of the online network.
    """
    if online_next_q is None:
        best = next_q.amax(1)
    else:
        best = q_of_action(next_q, online_next_q.argmax(1))
    return reward + discount * best


def importance_weights(probability: Scalars, count: int, beta: float) -> Scalars:
    """Importance weights (N · P(i))^-β, divided by the largest of the batch.

    They correct a mean over samples drawn with probabilities P towards one over all N rows, fully so at
    β = 1 (Schaul et al. 2016, arXiv:1511.05952, section 3.4).
    """
    weight = (count * probability).pow(-beta)
    return (weight / weight.max()).to(torch.float32)
