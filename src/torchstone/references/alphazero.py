"""AlphaZero's networks out of torchvision's residual blocks and torch's layers, with torch's losses."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.parts.optional_imports import import_torchvision

Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], dict[str, Tensor]]


class WithLoss(nn.Module):
    """A network with its loss: logits, value, and what is minimized."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, observation: Tensor, policy: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        logits, v = self.model(observation)
        losses = self.loss(self.model, observation, policy, value)
        return logits, v, losses["loss"]


def torch_loss(model: nn.Module, observation: Tensor, policy: Tensor, value: Tensor) -> dict[str, Tensor]:
    logits, v = model(observation)
    total = nn.CrossEntropyLoss()(logits, policy) + nn.MSELoss()(v, value)
    return {"loss": total}


class PolicyValue(nn.Module):
    """A body and two heads of torch's layers."""

    def __init__(self, body: nn.Module, policy: nn.Module, value: nn.Module):
        super().__init__()
        self.body, self.policy, self.value = body, policy, value

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(observation)
        return self.policy(x), torch.tanh(self.value(x)).flatten()


def residual_reference(
    shape: tuple[int, int, int], num_actions: int, channels: int, blocks: int, heads: tuple[int, int, int]
) -> nn.Module:
    """Blocks are torchvision's `BasicBlock`s.

    Args:
        heads: filters of the policy's and the value's head, and width of the value's hidden layer.
    """
    block = import_torchvision().models.resnet.BasicBlock
    (planes, rows, columns), (of_policy, of_value, width) = shape, heads
    stem = [nn.Conv2d(planes, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    body = nn.Sequential(*stem, *(block(channels, channels) for _ in range(blocks)))

    def head(filters: int, *layers: nn.Module) -> nn.Sequential:
        first = [nn.Conv2d(channels, filters, 1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
        return nn.Sequential(*first, nn.Flatten(), *layers)

    cells = rows * columns
    policy = head(of_policy, nn.Linear(of_policy * cells, num_actions))
    value = head(of_value, nn.Linear(of_value * cells, width), nn.ReLU(), nn.Linear(width, 1))
    return PolicyValue(body, policy, value)


def mlp_reference(shape: tuple[int, ...], num_actions: int, hidden: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.LazyLinear(width), nn.ReLU()]
    body = nn.Sequential(*layers)
    body(torch.zeros(1, *shape))
    return PolicyValue(body, nn.Linear(hidden[-1], num_actions), nn.Linear(hidden[-1], 1))


@torch.no_grad()
def network_case(
    ours: nn.Module, theirs: nn.Module, loss: Loss, inputs: tuple[Tensor, ...], label: str, **options: Any
) -> ParityCase:
    """Their weights copied into ours, in their order, and the losses of both."""
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        own.copy_(other)
    return ParityCase(WithLoss(ours, loss), WithLoss(theirs, torch_loss), inputs, label=label, **options)


def random_batch(
    shape: tuple[int, ...], num_actions: int, batch: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Boards of zeros and ones, shares of visits with illegal moves among them, and outcomes."""
    generator = torch.Generator().manual_seed(seed)
    board = torch.randint(2, (batch, *shape), generator=generator).to(dtype)
    visits = torch.randint(20, (batch, num_actions), generator=generator).to(dtype)
    visits[:, 0] += 1
    outcome = torch.randint(-1, 2, (batch,), generator=generator).to(dtype)
    return board, visits / visits.sum(1, keepdim=True), outcome


def alphazero_cases(
    mlp: Callable[..., nn.Module], residual: Callable[..., nn.Module], loss: Loss
) -> Iterator:
    """A network of each kind, as small as their blocks allow."""
    torch.manual_seed(0)
    shape, heads = (2, 6, 7), (2, 1, 16)
    theirs = residual_reference(shape, 7, 8, 2, heads)
    options = {"policy_channels": heads[0], "value_channels": heads[1], "value_hidden": heads[2]}
    ours = residual(shape, 7, channels=8, blocks=2, **options)
    yield network_case(ours, theirs, loss, random_batch(shape, 7, 16, 0), "residual network and loss")
    theirs = mlp_reference((2, 3, 3), 9, (32, 16))
    ours = mlp((2, 3, 3), 9, hidden=(32, 16))
    yield network_case(ours, theirs, loss, random_batch((2, 3, 3), 9, 16, 1), "layers and loss")
