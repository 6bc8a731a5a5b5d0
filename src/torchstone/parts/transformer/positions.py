"""Where a token stands: positions for networks that would otherwise see a bag of tokens."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def sinusoidal_positions(length: int, width: int, base: float = 10_000.0) -> Float[Tensor, "length width"]:
    """sin and cos of place / base^(2i/width), in turn (Vaswani et al. 2017, section 3.5)."""
    places = torch.arange(length, dtype=torch.float64)[:, None]
    rates = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2] = (places * rates).sin()
    table[:, 1::2] = (places * rates[: width // 2]).cos()
    return table.to(torch.get_default_dtype())


def relative_position_buckets(
    queries: int,
    keys: int,
    *,
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
    device: torch.device | str | None = None,
) -> Int64[Tensor, "queries keys"]:
    """A number for each distance key − query: one each for near ones, coarser with its logarithm.

    Raffel et al. 2019 (arXiv:1910.10683), section 2.1. Distances from `furthest` on share a bucket;
    `both_ways` gives half of the buckets to keys that come later, else all of those share bucket 0.
    The queries are the last of the keys' places.
    """
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    distance = torch.arange(keys, device=device)[None] - query
    number = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        number = (distance > 0) * num_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    near = num_buckets // 2
    share = (distance.clamp(min=1).float() / near).log() / math.log(max_distance / near)
    far = (near + (share * (num_buckets - near)).long()).clamp(max=num_buckets - 1)
    return number + torch.where(distance < near, distance, far)


def apply_rotary(
    x: Float[Tensor, "batch heads length width"], *, first: int = 0, base: float = 10_000.0
) -> Float[Tensor, "batch heads length width"]:
    """Turns each pair (xᵢ, xᵢ₊w/2) by place · base^(−2i/width), so that products know distances.

    Su et al. 2021 (arXiv:2104.09864), equation 34, with the halves paired as published weights have
    them. `first` is the place of the first token.
    """
    length, width = x.shape[2:]
    half = width // 2
    rates = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    places = torch.arange(first, first + length, device=x.device, dtype=torch.float32)
    turn = places[:, None] * rates
    cos, sin = turn.cos().to(x.dtype), turn.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def interpolate_positions(
    table: Float[Tensor, "1 tokens width"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 others width"]:
    """Learned positions of an `old` grid (rows, columns) for a `new` one, bicubic; the first token's,
    which stands outside of the grid, stays. Dosovitskiy et al. 2020 (arXiv:2010.11929), section 3.2."""
    if old == new:
        return table
    first, rest = table[:, :1], table[:, 1:].unflatten(1, old).permute(0, 3, 1, 2)
    rest = F.interpolate(rest, size=new, mode="bicubic", align_corners=False)
    return torch.cat([first, rest.flatten(2).transpose(1, 2)], 1)
