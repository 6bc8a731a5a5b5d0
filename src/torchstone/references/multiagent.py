"""stable-baselines3's multilayer perceptrons, which the networks of games with hidden cards are compared
with."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.parts.optional_imports import import_optional

# features, actions, hidden layers
SIZES = ((11, 2, (64,)), (30, 3, (64, 64, 64)))


class _PolicyAndQ(nn.Module):
    """Two players' Q-networks and policies."""

    def __init__(self, num_features: int, num_actions: int, hidden: tuple[int, ...]):
        super().__init__()
        self.q = nn.ModuleList(_mlp(num_features, num_actions, hidden) for _ in range(2))
        self.policy = nn.ModuleList(_mlp(num_features, num_actions, hidden) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.stack([self.policy[0](x), self.policy[1](x)], dim=1)
        return logits, torch.stack([self.q[0](x), self.q[1](x)], dim=1)


class _PolicyAndAdvantages(nn.Module):
    """Two players' advantages and one policy."""

    def __init__(self, num_features: int, num_actions: int, hidden: tuple[int, ...]):
        super().__init__()
        self.advantage = nn.ModuleList(_mlp(num_features, num_actions, hidden) for _ in range(2))
        self.policy = _mlp(num_features, num_actions, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(x), torch.stack([self.advantage[0](x), self.advantage[1](x)], dim=1)


def _mlp(num_features: int, num_actions: int, hidden: tuple[int, ...]) -> nn.Sequential:
    import_optional("stable_baselines3")
    from stable_baselines3.common.torch_layers import create_mlp

    return nn.Sequential(*create_mlp(num_features, num_actions, list(hidden)))


def nfsp_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """NFSP's networks for Kuhn poker, and as deep ones for Leduc poker."""
    yield from _cases(ours, _PolicyAndQ, seed)


def deep_cfr_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """Deep CFR's networks for both games."""
    yield from _cases(ours, _PolicyAndAdvantages, seed)


def _cases(ours: type[nn.Module], theirs: type[nn.Module], seed: int) -> Iterator[ParityCase]:
    for num_features, num_actions, hidden in SIZES:
        torch.manual_seed(seed)
        other = theirs(num_features, num_actions, hidden)
        network = ours(num_features, num_actions, hidden)
        network.load_state_dict(other.state_dict())
        x = torch.randint(2, (16, num_features)).float()
        yield ParityCase(network, other, x, label=f"{num_features} features")
