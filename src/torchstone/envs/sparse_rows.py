"""What a few rows of a ring have that the others have not."""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor


class Aside:
    """Tensors of one shape kept for a few of a ring's rows."""

    def __init__(self, rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: Any):
        self.of = torch.full((rows,), -1, dtype=torch.int32, device=device)
        self.kept = torch.empty((0, *shape), dtype=dtype, device=device)
        self.free: list[int] = []

    def forget(self, rows: Int64[Tensor, " n"]) -> None:
        places = self.of[rows]
        self.free += places[places >= 0].tolist()
        self.of[rows] = -1

    def put(self, rows: Int64[Tensor, " n"], items: Tensor) -> None:
        """Keep one for each of `rows`, which were forgotten before."""
        lacking = len(rows) - len(self.free)
        if lacking > 0:
            old, grown = len(self.kept), max(lacking, len(self.kept))
            blank = self.kept.new_zeros((grown, *self.kept.shape[1:]))
            self.kept = torch.cat([self.kept, blank])
            self.free += range(old, old + grown)
        places = torch.tensor([self.free.pop() for _ in range(len(rows))], dtype=torch.int32)
        places = places.to(self.of.device)
        self.of[rows], self.kept[places.long()] = places, items.to(self.kept)

    def over(self, rows: Int64[Tensor, " n"], items: Tensor) -> None:
        """Write what was kept for some of `rows` over their `items`."""
        if len(self.kept):
            places = self.of[rows]
            (has,) = (places >= 0).nonzero(as_tuple=True)
            items[has] = self.kept[places[has].long()]

    def state_dict(self, rows: int) -> dict[str, Any]:
        return {"of": self.of[:rows].clone(), "kept": self.kept.clone(), "free": list(self.free)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.of.fill_(-1)
        self.of[: len(state["of"])] = state["of"]
        self.kept, self.free = state["kept"].to(self.kept), list(state["free"])
