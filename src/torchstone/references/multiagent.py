"""What the networks of games with hidden cards are compared with: stable-baselines3's multilayer perceptrons,
and Deep CFR's equations in plain operations."""

import itertools
from collections.abc import Callable, Iterator

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
    """Two players' advantages and one policy, the weights in a dictionary as ours are named."""

    def __init__(self, num_features: int, num_actions: int, hidden: tuple[int, ...]):
        super().__init__()
        widths = [num_features, *hidden]
        self.tensors = nn.ParameterDict()
        for network in ("advantage.0", "advantage.1", "policy"):
            shapes = {f"layers.{i}": (b, a) for i, (a, b) in enumerate(itertools.pairwise(widths))}
            for layer, (rows, columns) in {**shapes, "head": (num_actions, widths[-1])}.items():
                name = f"{network}.{layer}".replace(".", "/")
                self.tensors[f"{name}/weight"] = nn.Parameter(torch.randn(rows, columns) / columns**0.5)
                self.tensors[f"{name}/bias"] = nn.Parameter(torch.randn(rows) / 10)
        self.depth = len(hidden)

    def _network(self, name: str, x: Tensor) -> Tensor:
        for i in range(self.depth):
            weight, bias = (self.tensors[f"{name}/layers/{i}/{kind}"] for kind in ("weight", "bias"))
            y = torch.einsum("bi,oi->bo", x, weight) + bias
            if y.shape == x.shape:
                y = y + x
            x = torch.maximum(y, torch.zeros_like(y))
        centered = x - x.mean(1, keepdim=True)
        x = centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return (
            torch.einsum("bi,oi->bo", x, self.tensors[f"{name}/head/weight"])
            + self.tensors[f"{name}/head/bias"]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = [self._network("advantage/0", x), self._network("advantage/1", x)]
        return self._network("policy", x), torch.stack(both, dim=1)


def _our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("tensors.").replace("/", "."): tensor for name, tensor in tensors.items()}


def _mlp(num_features: int, num_actions: int, hidden: tuple[int, ...]) -> nn.Sequential:
    import_optional("stable_baselines3")
    from stable_baselines3.common.torch_layers import create_mlp

    return nn.Sequential(*create_mlp(num_features, num_actions, list(hidden)))


def nfsp_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """NFSP's networks for Kuhn poker, and as deep ones for Leduc poker."""
    yield from _cases(ours, _PolicyAndQ, seed, dict)


def deep_cfr_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """Deep CFR's networks for both games."""
    yield from _cases(ours, _PolicyAndAdvantages, seed, _our_names)


def _cases(
    ours: type[nn.Module], theirs: type[nn.Module], seed: int, names: Callable[[dict], dict]
) -> Iterator[ParityCase]:
    for num_features, num_actions, hidden in SIZES:
        torch.manual_seed(seed)
        other = theirs(num_features, num_actions, hidden)
        network = ours(num_features, num_actions, hidden)
        network.load_state_dict(names(other.state_dict()))
        x = torch.randint(2, (16, num_features)).float()
        yield ParityCase(network, other, x, names, torch.optim.AdamW, label=f"{num_features} features")
