"""Memories of fixed size: a uniform sample of all items that ever came, or the newest ones."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.parts.seeding import SeedStream, derive_generator


class Memory:
    """Rows of several columns; which row an item takes is the caller's.

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

    def write(self, rows: Int64[Tensor, " n"], items: Mapping[str, Tensor], count: int) -> None:
        """Items into rows, each of which is named once; of `count` that came."""
        for name, column in self.columns.items():
            column[rows] = items[name].to(column.dtype)
        self.num_seen += count

    def state_dict(self) -> dict[str, Any]:
        columns = {name: column.clone() for name, column in self.held().items()}
        return {"num_seen": self.num_seen, "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_seen = state["num_seen"]
        for name, column in state["columns"].items():
            self.columns[name][: len(column)] = column


def add_uniformly(memory: Memory, items: Mapping[str, Tensor], seed: int) -> None:
    """Keep a uniform sample, without replacement, of all items that ever came (Vitter 1985, algorithm R):
    item number n, from 1, stays with probability min(1, capacity / n), in the row of one chosen uniformly.

    What is drawn follows from the seed and the number of items before.

    Args:
        items: `(n, *shape)` of each column, in the order in which they came.
    """
    count = len(next(iter(items.values())))
    number = torch.arange(memory.num_seen, memory.num_seen + count)
    generator = derive_generator(seed, SeedStream.RESERVOIR, memory.num_seen)
    uniform = torch.rand(count, generator=generator, dtype=torch.double)
    drawn_rows = (uniform * (number + 1)).long()
    rows = torch.where(number < memory.capacity, number, drawn_rows)
    stay = (rows < memory.capacity).nonzero()[:, 0]
    # of several items for one row the last one stays
    found, which = rows[stay].unique(return_inverse=True)
    last = torch.zeros_like(found).scatter_reduce_(0, which, stay, "amax")
    memory.write(found, {name: items[name][last] for name in memory.columns}, count)


def add_newest(memory: Memory, items: Mapping[str, Tensor]) -> None:
    """Keep the newest items: each takes the row of the oldest.

    Args:
        items: `(n, *shape)` of each column, in the order in which they came.
    """
    count = len(next(iter(items.values())))
    begin = max(0, count - memory.capacity)
    rows = torch.arange(memory.num_seen + begin, memory.num_seen + count) % memory.capacity
    memory.write(rows, {name: items[name][begin:] for name in memory.columns}, count)
