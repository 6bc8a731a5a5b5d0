"""Stochastic depth: in training, a residual branch is left out at random."""

from jaxtyping import Float
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Each picture of the batch loses the branch with probability `rate`; the others' is made larger.

    y = b·x / (1 − p), with b ~ Bernoulli(1 − p) for each row, so that E[y] = x and nothing needs to
    change in use, where y = x. Huang et al. 2016, arXiv:1603.09382, who scale in use instead.
    """

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"a rate of {rate} is not at least 0 and below 1")
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest"]:
        if not self.training or not self.rate:
            return x
        keep = 1 - self.rate
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep)
        return x * kept.div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"


def linear_drop_rates(rate: float, blocks: int) -> list[float]:
    """Rates that rise evenly from 0 at the first block, stopping one step short of `rate`: p·i/n."""
    return [rate * i / blocks for i in range(blocks)]
