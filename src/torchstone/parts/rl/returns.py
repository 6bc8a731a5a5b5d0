"""What is expected of a step, out of rewards and guesses: returns, n-step, TD(λ), advantages.

All take rollouts, time first: step t of world n gave `reward[t, n]`, and `following[t, n]` is what the
state it led to is thought to be worth: nothing where the episode `terminated`, and where a clock cut it
short the value of that very state, not of the one that the next episode begins with (Pardo et al. 2018,
arXiv:1712.00378). `ended` says that the next row belongs to another episode, for either reason.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Rows = Float[Tensor, "time worlds"]
Flags = Bool[Tensor, "time worlds"]


def successors(
    value: Rows,
    last: Float[Tensor, " worlds"],
    cut: Float[Tensor, " cuts"],
    terminated: Flags,
    truncated: Flags,
) -> Rows:
    """`following`, out of the values of the states acted in, of those after the last step, and of those
    that episodes were cut at (row by row, where `truncated` and not `terminated`)."""
    following = torch.cat([value[1:], last[None]])
    if len(cut):
        following[truncated & ~terminated] = cut
    return following.masked_fill_(terminated, 0.0)


def backward(gain: Rows, decay: Rows, last: Float[Tensor, " worlds"] | None = None) -> Rows:
    """x_t = gain_t + decay_t x_{t+1}, from the end; `last` is x after the last row (0)."""
    ahead = torch.zeros_like(gain[0]) if last is None else last
    rows = [ahead] * len(gain)
    gains, decays = gain.unbind(), decay.unbind()
    for t in range(len(rows) - 1, -1, -1):
        rows[t] = ahead = torch.addcmul(gains[t], decays[t], ahead)
    return torch.stack(rows)


def discounted(reward: Rows, following: Rows, ended: Flags, gamma: float) -> Rows:
    """The return G_t = r_t + γ G_{t+1}; where the rows or an episode end, what `following` says goes on."""
    # the last row has nothing after it but what it led to
    closes = ended.clone()
    closes[-1] = True
    gain = torch.where(closes, reward + gamma * following, reward)
    return backward(gain, gamma * (~closes).to(reward.dtype))


def n_step(reward: Rows, following: Rows, ended: Flags, gamma: float, n: int) -> Rows:
    """G_t = Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n}), fewer where the rows or an episode end before."""
    once = reward + gamma * following
    total = once  # of one step; each round looks a step further
    stops = ended.clone()
    stops[-1] = True
    for _ in range(n - 1):
        total = torch.where(stops, once, reward + gamma * total.roll(-1, 0))
    return total


def td_lambda(reward: Rows, following: Rows, ended: Flags, gamma: float, lam: float) -> Rows:
    """The λ-return G_t = r_t + γ ((1-λ) V(s_{t+1}) + λ G_{t+1}) (Sutton 1988)."""
    closes = ended.clone()
    closes[-1] = True
    going = (~closes).to(reward.dtype)
    return backward(reward + gamma * (1 - lam * going) * following, gamma * lam * going)


def gae(reward: Rows, value: Rows, following: Rows, ended: Flags, gamma: float, lam: float) -> Rows:
    """Generalised advantages, Â_t = δ_t + γλ Â_{t+1} with δ_t = r_t + γ V(s_{t+1}) - V(s_t) (Schulman et
    al. 2016, arXiv:1506.02438, equation 16)."""
    delta = reward + gamma * following - value
    return backward(delta, gamma * lam * (~ended).to(reward.dtype))
