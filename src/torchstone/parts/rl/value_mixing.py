"""Joint action values out of those of single agents, such that each agent's own best action is part of the
best joint action.

That holds where ∂Q_tot/∂Q_a ≥ 0 for every agent a: a sum (VDN) and a monotone network (QMIX) both have it.
Oracle: `torchrl.modules.VDNMixer` and `QMixer`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu


def sum_values(
    q: Float[Tensor, "*batch agent"], state: Float[Tensor, "*batch state"]
) -> Float[Tensor, "*batch"]:
    """Q_tot = Σ_a Q_a, whatever the state (Sunehag et al. 2017, arXiv:1706.05296)."""
    return q.sum(-1)


class QMixer(nn.Module):
    """Q_tot = w_2(s)ᵀ elu(W_1(s) q + b_1(s)) + b_2(s), with |·| around both weights, which hypernetworks
    make of the state (Rashid et al. 2018, arXiv:1803.11485, section 4.1).

    The state may count against an action whatever sign it has; the agents' values only ever for one.

    Args:
        embed: width of the mixing layer.
        hypernet: width of the hidden layer of the weights' hypernetworks; 0 for none, as in the paper.
    """

    def __init__(self, num_agents: int, state_size: int, embed: int = 32, hypernet: int = 64):
        super().__init__()
        self.num_agents, self.embed = num_agents, embed
        self.hyper_w1 = _hypernet(state_size, hypernet, embed * num_agents)
        self.hyper_b1 = nn.Linear(state_size, embed)
        self.hyper_w2 = _hypernet(state_size, hypernet, embed)
        self.hyper_b2 = _hypernet(state_size, embed, 1)

    def forward(
        self, q: Float[Tensor, "*batch agent"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch"]:
        w1 = self.hyper_w1(state).abs().unflatten(-1, (self.num_agents, self.embed))
        hidden = elu((q[..., None, :] @ w1)[..., 0, :] + self.hyper_b1(state))
        return (hidden * self.hyper_w2(state).abs()).sum(-1) + self.hyper_b2(state)[..., 0]


def _hypernet(inputs: int, hidden: int, outputs: int) -> nn.Module:
    if not hidden:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def gather_chosen(q: Float[Tensor, "*batch action"], action: Tensor) -> Float[Tensor, "*batch"]:
    """Q of the actions that were chosen, int64 of the batch's shape."""
    return torch.gather(q, -1, action[..., None])[..., 0]
