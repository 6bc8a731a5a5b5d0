"""Mean and variance of all that was ever seen, a batch at a time."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Running(nn.Module):
    """x → (x - mean) / √(variance + ε), clamped, by the statistics taken in so far; its buffers are its state.

    Batches are merged exactly (Chan, Golub and LeVeque 1979), in float64. Before the first, mean is 0 and
    variance 1, with a weight of 1e-4.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = (), limit: float = 10.0, epsilon: float = 1e-8):
        super().__init__()
        self.limit, self.epsilon = limit, epsilon
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    @torch.no_grad()
    def take(self, x: Float[Tensor, "batch *shape"]) -> None:
        """Take in a batch."""
        x = x.to(torch.float64)
        mean, variance, count = x.mean(0), x.var(0, correction=0), len(x)
        total = self.count + count
        apart = mean - self.mean
        spread = self.variance * self.count + variance * count
        self.variance.copy_((spread + apart.square() * self.count * count / total) / total)
        self.mean.add_(apart * count / total)
        self.count.copy_(total)

    def forward(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        scaled = (x - self.mean.to(x.dtype)) * self.scale(x)
        return scaled.clamp(-self.limit, self.limit)

    def scale(self, x: Tensor) -> Tensor:
        """1 / √(variance + ε), in the type of `x`: what rewards are multiplied by, their mean left alone."""
        return (self.variance + self.epsilon).rsqrt().to(x.dtype)


class ReturnScale(nn.Module):
    """Rewards divided by the running deviation of the discounted sums that they make, and clamped: what one
    learning rate for all worlds wants (Engstrom et al. 2020, arXiv:2005.12729, section 3)."""

    sum: Tensor

    def __init__(self, worlds: int, gamma: float, limit: float = 10.0):
        super().__init__()
        self.gamma, self.limit, self.running = gamma, limit, Running()
        self.register_buffer("sum", torch.zeros(worlds, dtype=torch.float64))

    @torch.no_grad()
    def forward(
        self, reward: Float[Tensor, "time worlds"], ended: Bool[Tensor, "time worlds"]
    ) -> Float[Tensor, "time worlds"]:
        """Take in a rollout, then scale its rewards."""
        sums = []
        for gained, over in zip(reward.double(), ended, strict=True):
            sums.append(self.sum.mul_(self.gamma).add_(gained).clone())
            self.sum.masked_fill_(over, 0.0)
        self.running.take(torch.cat(sums))
        return (reward * self.running.scale(reward)).clamp(-self.limit, self.limit)
