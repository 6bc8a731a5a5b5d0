"""Running mean and variance, to normalize observations and rewards."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class RunningMeanStd(nn.Module):
    """x → (x - mean) / √(variance + ε), clipped, by running statistics; its buffers are its state.

    Batches are merged exactly (Chan, Golub and LeVeque 1979), in float64. Before the first, mean is 0 and
    variance 1, with a weight of 1e-4.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = (), clip: float = 10.0, epsilon: float = 1e-8):
        super().__init__()
        self.clip, self.epsilon = clip, epsilon
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Float[Tensor, "batch *shape"]) -> None:
        """Merge a batch into the statistics."""
        x = x.to(torch.float64)
        mean, variance, count = x.mean(0), x.var(0, correction=0), len(x)
        total = self.count + count
        delta = mean - self.mean
        square_sum = self.variance * self.count + variance * count
        self.variance.copy_((square_sum + delta.square() * self.count * count / total) / total)
        self.mean.add_(delta * count / total)
        self.count.copy_(total)

    def forward(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        normalized = (x - self.mean.to(x.dtype)) * self.inv_std(x)
        return normalized.clamp(-self.clip, self.clip)

    def inv_std(self, x: Tensor) -> Tensor:
        """1 / √(variance + ε), in the dtype of `x`: the scale of rewards, whose mean is not subtracted."""
        return (self.variance + self.epsilon).rsqrt().to(x.dtype)


class RewardNormalizer(nn.Module):
    """Rewards divided by the running standard deviation of their discounted sums, and clipped.

    So one learning rate suits all envs (Engstrom et al. 2020, arXiv:2005.12729, section 3).
    """

    sum: Tensor

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0):
        super().__init__()
        self.gamma, self.clip, self.running = gamma, clip, RunningMeanStd()
        self.register_buffer("sum", torch.zeros(num_envs, dtype=torch.float64))

    @torch.no_grad()
    def forward(
        self, reward: Float[Tensor, "time envs"], done: Bool[Tensor, "time envs"]
    ) -> Float[Tensor, "time envs"]:
        """Update the statistics with a rollout, then scale its rewards."""
        sums = []
        for row, is_done in zip(reward.double(), done, strict=True):
            sums.append(self.sum.mul_(self.gamma).add_(row).clone())
            self.sum.masked_fill_(is_done, 0.0)
        self.running.update(torch.cat(sums))
        return (reward * self.running.inv_std(reward)).clamp(-self.clip, self.clip)
