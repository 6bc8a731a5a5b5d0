"""Memories of fixed size: a uniform sample of all items that ever came, or the newest ones."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.parts.seeding import SeedStream, derive_generator


class _Memory:
    """Rows of several columns.

    Args:
        capacity: number of rows.
        columns: of each column an empty tensor `(0, *shape)` of its type.
    """

    def __init__(self, capacity: int, columns: Mapping[str, Tensor]):
        self.capacity, self.num_seen = capacity, 0
        self.columns = {name: each.new_zeros(capacity, *each.shape[1:]) for name, each in columns.items()}

    def __len__(self) -> int:
        return min(self.num_seen, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """So many rows, each uniformly from all that are held, with replacement."""
        rows = torch.randint(len(self), (count,), generator=generator)
        return {name: column[rows] for name, column in self.columns.items()}

    def held(self) -> dict[str, Tensor]:
        """All rows that are held, in no order."""
        return {name: column[: len(self)] for name, column in self.columns.items()}

    def _write(self, rows: Int64[Tensor, " n"], items: Mapping[str, Tensor]) -> None:
        for name, column in self.columns.items():
            column[rows] = items[name].to(column.dtype)

    def state_dict(self) -> dict[str, Any]:
        columns = {name: column.clone() for name, column in self.held().items()}
        return {"num_seen": self.num_seen, "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_seen = state["num_seen"]
        for name, column in state["columns"].items():
            self.columns[name][: len(column)] = column


class Reservoir(_Memory):
    """A uniform sample, without replacement, of all items that ever came (Vitter 1985, algorithm R): item
    number n, from 1, is kept with probability min(1, capacity / n), and takes the row of one chosen
    uniformly.

    What is drawn follows from the seed and the number of items before, so that the rows and that number are
    all of its state.
    """

    def __init__(self, capacity: int, columns: Mapping[str, Tensor], seed: int):
        super().__init__(capacity, columns)
        self.seed = seed

    def add(self, items: Mapping[str, Tensor]) -> None:
        """Items `(n, *shape)` of each column, in the order in which they came."""
        count = len(next(iter(items.values())))
        number = torch.arange(self.num_seen, self.num_seen + count)
        generator = derive_generator(self.seed, SeedStream.RESERVOIR, self.num_seen)
        uniform = torch.rand(count, generator=generator, dtype=torch.double)
        drawn_rows = (uniform * (number + 1)).long().clamp(max=self.num_seen + count - 1)
        rows = torch.where(number < self.capacity, number, drawn_rows)
        kept = (rows < self.capacity).nonzero()[:, 0]
        # of several items for one row the last one stays
        found, which = rows[kept].unique(return_inverse=True)
        last = torch.zeros_like(found).scatter_reduce_(0, which, kept, "amax")
        self._write(found, {name: items[name][last] for name in self.columns})
        self.num_seen += count


class CircularMemory(_Memory):
    """The newest items: a new one takes the row of the oldest."""

    def add(self, items: Mapping[str, Tensor]) -> None:
        """Items `(n, *shape)` of each column, in the order in which they came."""
        count = len(next(iter(items.values())))
        begin = max(0, count - self.capacity)
        rows = torch.arange(self.num_seen + begin, self.num_seen + count) % self.capacity
        self._write(rows, {name: items[name][begin:] for name in self.columns})
        self.num_seen += count
