"""Which of many are looked at."""

import torch
from jaxtyping import Int64
from torch import Tensor


def evenly_spaced(count: int, most: int) -> Int64[Tensor, " chosen"]:
    """At most `most` of the indices 0 to `count` − 1, the first and the last among them, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()
