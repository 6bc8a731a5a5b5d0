"""MBPO's ensemble written out: separate networks of torch's layers, and the loss number by number."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase


class WithLoss(nn.Module):
    """An ensemble with its loss."""

    def __init__(self, model: nn.Module, loss: Callable[..., Any], weight_decay: float):
        super().__init__()
        self.model, self.loss, self.weight_decay = model, loss, weight_decay

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return *self.model(x), self.loss(self.model, x, y, self.weight_decay)["loss"]


class PlainEnsemble(nn.Module):
    """Networks of their own, which share the two bounds of log σ².

    Args:
        scales: mean and deviation of inputs, mean and deviation of outputs.
    """

    def __init__(
        self, widths: list[int], outputs: int, members: int, scales: list[Tensor], weight_decay: float
    ):
        super().__init__()
        self.outputs, self.scales, self.weight_decay = outputs, scales, weight_decay
        self.networks = nn.ModuleList()
        for _ in range(members):
            layers: list[nn.Module] = []
            for a, b in itertools.pairwise(widths):
                layers += [nn.Linear(a, b), nn.SiLU()]
            self.networks.append(nn.Sequential(*layers, nn.Linear(widths[-1], 2 * outputs)))
        self.low = nn.Parameter(-1 - torch.rand(outputs))
        self.high = nn.Parameter(0.5 + torch.rand(outputs))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        input_mean, input_std, output_mean, output_std = self.scales
        means, log_variances = [], []
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for network, rows, targets in zip(self.networks, x, y, strict=True):
            raw = network((rows - input_mean) / input_std)
            mean, log_variance = raw[:, : self.outputs], raw[:, self.outputs :]
            log_variance = self.high - torch.log1p(torch.exp(self.high - log_variance))
            log_variance = self.low + torch.log1p(torch.exp(log_variance - self.low))
            means.append(mean * output_std + output_mean)
            log_variances.append(log_variance + torch.log(output_std**2))
            scaled = (targets - output_mean) / output_std
            for i in range(len(rows)):
                for j in range(self.outputs):
                    variance = log_variance[i, j].exp()
                    # of the density: -2 log N(y; μ, σ²) - log 2π
                    density = torch.distributions.Normal(mean[i, j], variance.sqrt())
                    nll = -2 * density.log_prob(scaled[i, j]) - math.log(2 * math.pi)
                    total = total + nll / (len(rows) * self.outputs)
            for layer in network.modules():
                if isinstance(layer, nn.Linear):
                    total = total + self.weight_decay / 2 * (layer.weight**2).sum()
        total = total + 0.01 * self.high.sum() - 0.01 * self.low.sum()
        return torch.stack(means), torch.stack(log_variances), total


def stack_members(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """From `networks.MEMBER.LAYER.weight` to `model.network.LAYER.weight`, all members in one."""
    converted = {"model.min_log_variance": tensors["low"], "model.max_log_variance": tensors["high"]}
    for name, tensor in tensors.items():
        if name.startswith("networks.0."):
            rest = name.removeprefix("networks.0.")
            members = sum(key.endswith(f".{rest}") and key.startswith("networks.") for key in tensors)
            each = torch.stack([tensors[f"networks.{k}.{rest}"] for k in range(members)])
            converted[f"model.network.{rest}"] = each.mT if tensor.dim() == 2 else each[:, None]
    return converted


def ensemble_cases(
    network: Callable[..., nn.Module], loss: Callable[..., Any], seeds: range = range(8)
) -> Iterator[ParityCase]:
    """Random sizes, in float64: each member on rows of its own, or all on the same."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)

        def number(low: int, high: int, generator: torch.Generator = generator) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        def normal(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        torch.manual_seed(seed)
        inputs, outputs, members, rows = number(2, 8), number(1, 5), number(2, 6), number(1, 6)
        hidden = [number(3, 12) for _ in range(number(1, 4))]
        scales = [normal(inputs), 0.5 + normal(inputs).abs(), normal(outputs), 0.5 + normal(outputs).abs()]
        theirs = PlainEnsemble([inputs, *hidden], outputs, members, scales, 0.02).double()
        ours = network(inputs, outputs, hidden=hidden, members=members, num_elites=1).double()
        for name, scale in zip(("input_mean", "input_std", "output_mean", "output_std"), scales, strict=True):
            getattr(ours, name).copy_(scale)
        with_loss = WithLoss(ours, loss, 0.02)
        with_loss.load_state_dict(
            {**with_loss.state_dict(), **stack_members(dict(theirs.named_parameters()))}
        )
        x, y = normal(members, rows, inputs), normal(members, rows, outputs)
        if seed % 2:
            x = x[:1].expand(members, -1, -1).clone()
        label = f"{members} members, {len(hidden)} hidden layers"
        yield ParityCase(with_loss, theirs, (x, y), stack_members, torch.optim.AdamW, label)
