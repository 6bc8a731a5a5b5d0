"""Returns and advantages: discounted returns, n-step returns, TD(λ), GAE.

All take rollouts, time first: step t of env n gave `reward[t, n]`, and `next_value[t, n]` is the value of
the state that it led to. That is 0 where the episode `terminated`; where a time limit `truncated` it, it is
the value of that very state, not of the one that the next episode starts in (Pardo et al. 2018,
arXiv:1712.00378). `done`, terminated or truncated, says that the next row belongs to another episode.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Rows = Float[Tensor, "time envs"]
Flags = Bool[Tensor, "time envs"]


def next_values(
    value: Rows,
    last_value: Float[Tensor, " envs"],
    final_values: Float[Tensor, " truncations"],
    terminated: Flags,
    truncated: Flags,
) -> Rows:
    """`next_value` of each step.

    Args:
        value: of the states that were acted in.
        last_value: of the states after the last step.
        final_values: of the states that episodes were truncated in, row by row where `truncated` and not
            `terminated`.
    """
    next_value = torch.cat([value[1:], last_value[None]])
    if len(final_values):
        next_value[truncated & ~terminated] = final_values
    return next_value.masked_fill_(terminated, 0.0)


def reverse_scan(gain: Rows, decay: Rows, last: Float[Tensor, " envs"] | None = None) -> Rows:
    """x_t = gain_t + decay_t x_{t+1}, from the end; `last` is x after the last row (0)."""
    following = torch.zeros_like(gain[0]) if last is None else last
    rows = [following] * len(gain)
    gains, decays = gain.unbind(), decay.unbind()
    for t in range(len(rows) - 1, -1, -1):
        rows[t] = following = torch.addcmul(gains[t], decays[t], following)
    return torch.stack(rows)


def discounted_returns(reward: Rows, next_value: Rows, done: Flags, gamma: float) -> Rows:
    """The return G_t = r_t + γ G_{t+1}, bootstrapped by `next_value` where the rows or an episode end."""
    # after the last row comes nothing but the state that it led to
    is_last = done.clone()
    is_last[-1] = True
    gain = torch.where(is_last, reward + gamma * next_value, reward)
    return reverse_scan(gain, gamma * (~is_last).to(reward.dtype))


def n_step_returns(reward: Rows, next_value: Rows, done: Flags, gamma: float, n: int) -> Rows:
    """G_t = Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n}), fewer steps where the rows or an episode end before."""
    one_step = reward + gamma * next_value
    total = one_step  # each round looks one step further
    is_last = done.clone()
    is_last[-1] = True
    for _ in range(n - 1):
        total = torch.where(is_last, one_step, reward + gamma * total.roll(-1, 0))
    return total


def td_lambda(reward: Rows, next_value: Rows, done: Flags, gamma: float, lam: float) -> Rows:
    """The λ-return G_t = r_t + γ ((1-λ) V(s_{t+1}) + λ G_{t+1}) (Sutton 1988)."""
    is_last = done.clone()
    is_last[-1] = True
    continues = (~is_last).to(reward.dtype)
    return reverse_scan(reward + gamma * (1 - lam * continues) * next_value, gamma * lam * continues)


def gae(reward: Rows, value: Rows, next_value: Rows, done: Flags, gamma: float, lam: float) -> Rows:
    """Generalized advantage estimation, Â_t = δ_t + γλ Â_{t+1} with δ_t = r_t + γ V(s_{t+1}) - V(s_t)
    (Schulman et al. 2016, arXiv:1506.02438, equation 16)."""
    delta = reward + gamma * next_value - value
    return reverse_scan(delta, gamma * lam * (~done).to(reward.dtype))
