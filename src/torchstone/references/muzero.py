"""MuZero's unrolled network and loss, written out: one example and one step at a time, with Python numbers
for the targets."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase

COLUMNS = ("observation", "action", "reward", "value", "policy", "is_live", "is_known")


class WithLoss(nn.Module):
    """A network with its loss.

    Args:
        make_batch: columns by name -> what `loss` takes.
    """

    def __init__(self, model: nn.Module, loss: Callable[..., Any], make_batch: Callable[..., Any]):
        super().__init__()
        self.model, self.loss, self.make_batch = model, loss, make_batch

    def forward(self, *columns: Tensor) -> tuple[Tensor, ...]:
        losses = self.loss(self.model, self.make_batch(**dict(zip(COLUMNS, columns, strict=True))), 0.25)
        return *self.model(columns[0], columns[1]), losses["loss"]


def support_target(x: float, size: int, scale: bool) -> list[float]:
    """Probabilities of the atoms -size to size."""
    y = math.copysign(math.sqrt(abs(x) + 1) - 1, x) + 0.001 * x if scale else x
    y = max(-size, min(size, y))
    probabilities = [0.0] * (2 * size + 1)
    below = math.floor(y)
    probabilities[below + size] += 1 - (y - below)
    if y > below:
        probabilities[below + 1 + size] += y - below
    return probabilities


class PlainMuZero(nn.Module):
    """Layers of torch; `hidden` is one width. Parameters are in the order of ours."""

    def __init__(
        self,
        observation: int,
        actions: int,
        hidden: int,
        latent: int,
        value_support: int,
        reward_support: int,
        scale: bool,
    ):
        super().__init__()
        self.actions, self.supports, self.scale = actions, (value_support, reward_support), scale

        def two_layers(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

        self.h = two_layers(observation, latent)
        self.g_body = nn.Linear(latent + actions, hidden)
        self.g_latent = nn.Linear(hidden, latent)
        self.g_reward = nn.Linear(hidden, 2 * reward_support + 1)
        self.f_policy = two_layers(latent, actions)
        self.f_value = two_layers(latent, 2 * value_support + 1)

    @staticmethod
    def scaled(s: Tensor) -> Tensor:
        return torch.stack([(x - x.min()) / (x.max() - x.min() + 1e-5) for x in s])

    def forward(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        value: Tensor,
        policy: Tensor,
        is_live: Tensor,
        is_known: Tensor,
    ) -> tuple[Tensor, ...]:
        s = self.scaled(self.h(observation.flatten(1)))
        policies, values, rewards = [self.f_policy(s)], [self.f_value(s)], []
        num_steps = action.shape[1]
        for k in range(num_steps):
            if s.requires_grad:
                # another tensor, whose hook halves what comes back through the dynamics alone
                s = s.view_as(s)
                s.register_hook(lambda gradient: gradient / 2)
            a = torch.zeros(len(s), self.actions, dtype=s.dtype, device=s.device)
            for row, chosen in enumerate(action[:, k].tolist()):
                a[row, chosen] = 1
            x = torch.relu(self.g_body(torch.cat([s, a], 1)))
            rewards.append(self.g_reward(x))
            s = self.scaled(s + self.g_latent(x))
            policies.append(self.f_policy(s))
            values.append(self.f_value(s))
        total = torch.zeros((), dtype=s.dtype, device=s.device)
        for row in range(len(observation)):
            for k in range(num_steps + 1):
                if not is_known[row, k]:
                    break
                weight = 1.0 if k == 0 else 1 / num_steps
                log_v = torch.log_softmax(values[k][row], 0)
                z = support_target(float(value[row, k]), self.supports[0], self.scale)
                total = total - 0.25 * weight * sum(p * x for p, x in zip(z, log_v, strict=True) if p)
                if is_live[row, k]:
                    log_p = torch.log_softmax(policies[k][row], 0)
                    total = total - weight * (policy[row, k] * log_p).sum()
                if k < num_steps:
                    log_r = torch.log_softmax(rewards[k][row], 0)
                    u = support_target(float(reward[row, k]), self.supports[1], self.scale)
                    total = total - sum(p * x for p, x in zip(u, log_r, strict=True) if p) / num_steps
        loss = total / len(observation)
        return torch.stack(policies, 1), torch.stack(values, 1), torch.stack(rewards, 1), loss


def random_batch(
    observation: tuple[int, ...], actions: int, num_steps: int, batch: int, seed: int, largest: float
) -> tuple[Tensor, ...]:
    """Episodes that end at once, later or never, and some that are cut; some values exceed the support."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    end = torch.randint(1, 2 * num_steps + 2, (batch, 1), generator=generator)
    is_live = torch.arange(num_steps + 1) < end
    is_cut = torch.rand(batch, 1, generator=generator) < 0.3
    reward, value = normal(batch, num_steps), largest * normal(batch, num_steps + 1)
    return (
        normal(batch, *observation),
        torch.randint(actions, (batch, num_steps), generator=generator),
        reward * is_live[:, :-1],
        value * is_live,
        normal(batch, num_steps + 1, actions).softmax(-1),
        is_live,
        is_live | ~is_cut,
    )


def muzero_cases(
    network: Callable[..., nn.Module], loss: Callable[..., Any], make_batch: Callable[..., Any]
) -> Iterator[ParityCase]:
    """Random sizes, in float64."""
    sizes = torch.Generator().manual_seed(0)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=sizes))

    for seed in range(8):
        torch.manual_seed(seed)
        shape, actions, hidden, latent = (number(2, 6),), number(2, 6), number(5, 20), number(4, 12)
        value_support, reward_support, num_steps = number(2, 9), number(1, 4), number(1, 6)
        layers = shape[0], actions, hidden, latent, value_support, reward_support
        scale = bool(seed % 4)  # not in games
        theirs = PlainMuZero(*layers, scale).double()
        ours = network(
            shape,
            actions,
            hidden=(hidden,),
            latent_dim=latent,
            value_support=value_support,
            reward_support=reward_support,
            gamma=0.997 if scale else -1.0,  # of a game
            normalize=False,
        ).double()
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            own.data.copy_(other)
        batch = random_batch(shape, actions, num_steps, number(1, 9), seed, 3.0 * value_support)
        yield ParityCase(
            WithLoss(ours, loss, make_batch), theirs, batch, label=f"{num_steps} steps, {actions} actions"
        )
