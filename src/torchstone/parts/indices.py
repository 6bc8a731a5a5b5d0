"""Which of many are looked at."""

import torch
from jaxtyping import Int64
from torch import Tensor


def spread_over_classes(labels: Int64[Tensor, " count"], most: int) -> Int64[Tensor, " chosen"]:
    """At most `most` indices, the classes in turn, evenly spaced in each: data are often ordered by class."""
    classes = labels.unique().tolist()
    share = -(-most // max(1, len(classes)))
    rows = [(labels == each).nonzero()[:, 0].cpu() for each in classes]
    chosen = [own[evenly_spaced(len(own), share)].tolist() for own in rows]
    in_turn = [own[i] for i in range(share) for own in chosen if i < len(own)]
    return torch.tensor(in_turn[:most], dtype=torch.int64)


def evenly_spaced(count: int, most: int) -> Int64[Tensor, " chosen"]:
    """At most `most` of the indices 0 to `count` − 1, the first and the last among them, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()
