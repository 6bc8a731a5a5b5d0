"""Stochastic depth (drop path): in training, a residual branch is dropped at random."""

from jaxtyping import Float
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Each sample of the batch loses the branch with probability `rate`; the others' is scaled up.

    y = b·x / (1 − p), with b ~ Bernoulli(1 − p) per sample, so that E[y] = x and y = x in evaluation.
    Huang et al. 2016, arXiv:1603.09382, who scale in evaluation instead.
    """

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"a rate of {rate} is not at least 0 and below 1")
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest"]:
        if not self.training or not self.rate:
            return x
        survival = 1 - self.rate
        mask = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(survival)
        return x * mask.div_(survival)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"


def linear_drop_rates(rate: float, blocks: int) -> list[float]:
    """Rates that rise linearly from 0 at the first block, one step short of `rate` at the last: p·i/n."""
    return [rate * i / blocks for i in range(blocks)]
