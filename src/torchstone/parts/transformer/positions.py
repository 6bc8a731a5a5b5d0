"""Position encodings: sinusoidal (line and grid), T5's relative buckets, rotary; learned ones resized."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def sinusoidal_positions(length: int, width: int, base: float = 10_000.0) -> Float[Tensor, "length width"]:
    """sin and cos of position / base^(2i/width), interleaved (Vaswani et al. 2017, section 3.5)."""
    positions = torch.arange(length, dtype=torch.float64)[:, None]
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2] = (positions * frequencies).sin()
    table[:, 1::2] = (positions * frequencies[: width // 2]).cos()
    return table.to(torch.get_default_dtype())


def sinusoidal_grid(rows: int, columns: int, width: int) -> Float[Tensor, "positions width"]:
    """Fixed positions of a grid, row by row: the first half of the channels encodes the column, the second
    the row, each as [sin p ω, cos p ω] with ω = 10000^(−i / (width/4)), i = 0 … width/4 − 1.

    He et al. 2021 (MAE, arXiv:2111.06377), appendix A.1, in the order of the authors' code.
    """
    quarter = width // 4
    omega = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def encode(count: int) -> Float[Tensor, "count half"]:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], 1)

    row, column = encode(rows)[:, None], encode(columns)[None]
    grid = torch.cat([column.expand(rows, -1, -1), row.expand(-1, columns, -1)], 2)
    return grid.flatten(0, 1).to(torch.get_default_dtype())


def relative_position_buckets(
    queries: int,
    keys: int,
    *,
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
    device: torch.device | str | None = None,
) -> Int64[Tensor, "queries keys"]:
    """The bucket of each distance key − query: one per near distance, logarithmically coarser beyond.

    Raffel et al. 2019 (arXiv:1910.10683), section 2.1. Distances from `max_distance` on share a bucket.
    `bidirectional` gives half of the buckets to later keys; otherwise all later keys share bucket 0.
    The queries are the last of the keys' positions.
    """
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    distance = torch.arange(keys, device=device)[None] - query
    first = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        first = (distance > 0) * num_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = num_buckets // 2
    fraction = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    coarse = (exact + (fraction * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return first + torch.where(distance < exact, distance, coarse)


def apply_rotary(
    x: Float[Tensor, "batch heads length width"], *, offset: int = 0, base: float = 10_000.0
) -> Float[Tensor, "batch heads length width"]:
    """Rotary position embedding: rotates each pair (xᵢ, xᵢ₊w/2) by position · base^(−2i/width).

    Products of rotated queries and keys depend on their distance. Su et al. 2021 (arXiv:2104.09864),
    equation 34, with the halves paired as in published weights. `offset` is the position of the first
    token.
    """
    length, width = x.shape[2:]
    half = width // 2
    frequencies = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    positions = torch.arange(offset, offset + length, device=x.device, dtype=torch.float32)
    angles = positions[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def interpolate_positions(
    table: Float[Tensor, "1 tokens width"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 new_tokens width"]:
    """Learned position embeddings of an `old` grid (rows, columns), resized to a `new` one (bicubic).

    The first token's embedding stays: the class token is outside the grid. Dosovitskiy et al. 2020
    (arXiv:2010.11929), section 3.2.
    """
    if old == new:
        return table
    first, grid = table[:, :1], table[:, 1:].unflatten(1, old).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    return torch.cat([first, grid.flatten(2).transpose(1, 2)], 1)
