"""Dropout of units, and DropBlock of squares of a feature map."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Dropout(nn.Module):
    """`nn.Dropout` as its equation (Srivastava et al. 2014, JMLR 15:1929): y = b·x/(1 − p) with a
    b ~ Bernoulli(1 − p) for each unit, so that E[y] = x, and Var[y] = x²·p/(1 − p); in evaluation y = x. The
    paper scales in evaluation instead. Networks here use torch's.
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"a probability of {p} is not between 0 and 1")
        self.p = p

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or not self.p:
            return x
        if self.p == 1:
            return x * 0
        kept_units = x.new_empty(x.shape).bernoulli_(1 - self.p)
        return x * kept_units.div_(1 - self.p)


class DropBlock(nn.Module):
    """DropBlock (Ghiasi, Lin and Le 2018, arXiv:1810.12890, algorithm 1): squares of `block` × `block` of
    each channel are set to 0, and the rest is scaled to the mean that it had.

    A block begins at each place where it lies inside the map, with the probability
    γ = p/block² · h·w/((h − block + 1)(w − block + 1)), equation 1, so that about the share p is dropped.
    """

    def __init__(self, p: float, block: int):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"a probability of {p} is not between 0 and 1")
        self.p, self.block = p, block

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        if not self.training or not self.p:
            return x
        height, width = x.shape[-2:]
        block = min(self.block, height, width)
        rows, columns = height - block + 1, width - block + 1
        gamma = self.p * height * width / (block**2 * rows * columns)
        begins = x.new_empty(*x.shape[:2], rows, columns).bernoulli_(min(1.0, gamma))
        # a unit is dropped if a block begins up to block − 1 above and to the left of it
        dropped = F.max_pool2d(F.pad(begins, (block - 1,) * 4), block, stride=1)
        alive = 1 - dropped
        return x * alive * (alive.numel() / alive.sum().clamp(min=1.0))
