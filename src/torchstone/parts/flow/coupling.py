"""Couplings: maps that are easily undone and tell how they stretch space, out of networks that do neither.

Dinh, Sohl-Dickstein and Bengio 2016 (Real NVP, arXiv:1605.08803), sections 3.2 to 3.6. One part of the
numbers stays and says how the others are scaled and moved, so the Jacobian is a triangle, whose
determinant is the product of its diagonal:

    z = b ⊙ x + (1 − b) ⊙ (x ⊙ exp(s) + t),   s, t from b ⊙ x,   log |det ∂z/∂x| = Σ (1 − b) ⊙ s

Everything here has `forward(x) -> (z, log_det)` and `inverse(z) -> (x, log_det)`, each with the logarithm
of its own determinant, one for each of the batch, in nats.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Batch = Float[Tensor, "batch *shape"]
LogDet = Float[Tensor, " batch"]


def checkerboard(height: int, width: int, *, odd: bool = False) -> Float[Tensor, "1 height width"]:
    """1 where row and column add up to an even number (or an odd one), else 0 (figure 3, left)."""
    places = torch.arange(height)[:, None] + torch.arange(width)
    return (places % 2 == int(odd)).float()[None]


def halves(channels: int, *, second: bool = False) -> Float[Tensor, "channels 1 1"]:
    """1 for the first half of the channels (or the second), else 0 (figure 3, right)."""
    return ((torch.arange(channels) >= channels // 2) == second).float()[:, None, None]


def turns(width: int, *, odd: bool = False) -> Float[Tensor, " width"]:
    """1 for every other number of a row."""
    return (torch.arange(width) % 2 == int(odd)).float()


class Coupling(nn.Module):
    """The affine coupling (equation 9), its scale s = limit ⊙ tanh(…) with a limit learnt for each channel.

    Args:
        net: from b ⊙ x, zeros in place of what is moved, to s and t one after the other along the channels.
        mask: b, 1 for what stays: (channels or 1, *places), or (numbers,) of a row.
        channels: of x (of a row: its numbers).
    """

    kept: Tensor

    def __init__(self, net: nn.Module, mask: Float[Tensor, "*shape"], channels: int):
        super().__init__()
        self.net = net
        self.limit = nn.Parameter(torch.ones(channels, *[1] * (mask.ndim - 1)))
        self.register_buffer("kept", mask, persistent=False)

    def told(self, x: Batch) -> tuple[Batch, Batch]:
        """s and t, zero for what stays. What stays is the same in x and in z."""
        s, t = self.net(self.kept * x).chunk(2, 1)
        moved = 1 - self.kept
        return moved * self.limit * torch.tanh(s), moved * t

    def forward(self, x: Batch) -> tuple[Batch, LogDet]:
        s, t = self.told(x)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, z: Batch) -> tuple[Batch, LogDet]:
        s, t = self.told(z)
        return (z - t) * (-s).exp(), -s.flatten(1).sum(1)


class Squeeze(nn.Module):
    """2 × 2 places become 4 times as many channels on a grid of half the side (section 3.6); nothing is
    stretched. The first half of the channels are the places of one colour of the board."""

    TAKEN, BACK = (
        (0, 3, 1, 2),
        (0, 2, 3, 1),
    )  # of the four places: the diagonals one after the other

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch wide low narrow"], LogDet]:
        apart = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4))
        return apart[:, :, self.TAKEN].transpose(1, 2).flatten(1, 2), x.new_zeros(len(x))

    def inverse(
        self, z: Float[Tensor, "batch wide low narrow"]
    ) -> tuple[Float[Tensor, "batch channel height width"], LogDet]:
        apart = z.unflatten(1, (4, -1)).transpose(1, 2)[:, :, self.BACK]
        return F.pixel_shuffle(apart.flatten(1, 2), 2), z.new_zeros(len(z))


class Standard(nn.Module):
    """z = (x − mean) / std, with numbers that are given: what data are measured in makes no difference."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, x: Batch) -> tuple[Batch, LogDet]:
        return (x - self.mean) / self.std, -self.std.log().sum().expand(len(x))

    def inverse(self, z: Batch) -> tuple[Batch, LogDet]:
        return z * self.std + self.mean, self.std.log().sum().expand(len(z))


class Stretch(nn.Module):
    """z = exp(scale) ⊙ (x + shift), both learnt, one of each for a channel (or a number of a row); for
    batch norm, which would make what is said of one row depend on the others (Kingma and Dhariwal 2018,
    arXiv:1807.03039, 3.1). It starts as nothing done.

    Args:
        axes: how many axes of places x has after the channels.
    """

    def __init__(self, channels: int, axes: int = 2):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(channels, *[1] * axes))
        self.shift = nn.Parameter(torch.zeros(channels, *[1] * axes))

    def forward(self, x: Batch) -> tuple[Batch, LogDet]:
        return (x + self.shift) * self.scale.exp(), self.slope(x)

    def inverse(self, z: Batch) -> tuple[Batch, LogDet]:
        return z * (-self.scale).exp() - self.shift, -self.slope(z)

    def slope(self, x: Batch) -> LogDet:
        return (self.scale.sum() * math.prod(x.shape[2:])).expand(len(x))


class Chain(nn.Module):
    """One map after another (equations 6 and 7: log-determinants add up)."""

    def __init__(self, layers: Iterable[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Batch) -> tuple[Float[Tensor, "batch *made"], LogDet]:
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, z: Batch) -> tuple[Float[Tensor, "batch *made"], LogDet]:
        total = z.new_zeros(len(z))
        layers: list[Any] = list(self.layers)
        for layer in reversed(layers):
            z, log_det = layer.inverse(z)
            total = total + log_det
        return z, total


class Scales(nn.Module):
    """Stages, after each of which (but the last) half of the channels is done and leaves (section 3.6).

    Args:
        stages: maps of pictures, each but the last with one `Squeeze`.
        shape: (channel, height, width) of what comes in.
    """

    def __init__(self, stages: Iterable[nn.Module], shape: Sequence[int]):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        channel, height, width = shape
        self.leaving = []  # shapes of what is done after each stage
        for _ in itertools.islice(self.stages, len(self.stages) - 1):
            channel, height, width = 2 * channel, height // 2, width // 2
            self.leaving.append((channel, height, width))
        self.leaving.append((channel, height, width))

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch numbers"], LogDet]:
        """What is done first comes first in z (equation 15)."""
        total, done = x.new_zeros(len(x)), []
        for number, stage in enumerate(self.stages, 1):
            x, log_det = stage(x)
            total = total + log_det
            if number < len(self.stages):
                left, x = x.chunk(2, 1)
                done.append(left.flatten(1))
        return torch.cat([*done, x.flatten(1)], 1), total

    def inverse(
        self, z: Float[Tensor, "batch numbers"]
    ) -> tuple[Float[Tensor, "batch channel height width"], LogDet]:
        parts = z.split([math.prod(shape) for shape in self.leaving], 1)
        x, total = parts[-1].unflatten(1, self.leaving[-1]), z.new_zeros(len(z))
        for number in range(len(self.stages), 0, -1):
            if number < len(self.stages):
                left = parts[number - 1].unflatten(1, self.leaving[number - 1])
                x = torch.cat([left, x], 1)
            stage: Any = self.stages[number - 1]
            x, log_det = stage.inverse(x)
            total = total + log_det
        return x, total


def normal(z: Float[Tensor, "batch numbers"]) -> LogDet:
    """log N(z; 0, I), in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
