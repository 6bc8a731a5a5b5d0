"""Which samples come when, and what this process takes of a batch: what all streams of data share."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator

S = TypeVar("S")


class EpochSampler:
    """Which samples come when: permutations of `count`, one an epoch, joined end to end.

    It is no part of the batches themselves, so that what workers are fed from does not hold those alive.

    Args:
        rows: the indices within a batch that this process needs, as spans (first, count).
    """

    def __init__(self, count: int, rows: list[tuple[int, int]], seed: int, device: torch.device):
        self.count, self.rows = count, rows
        self.seed, self.device = seed, device
        self.epochs: dict[int, Tensor] = {}

    def index(self, position: int) -> Int64[Tensor, " rows"]:
        """Which samples this process takes from the batch that begins at `position`."""
        spans = [self._span(position + first, count) for first, count in self.rows]
        return spans[0] if len(spans) == 1 else torch.cat(spans)

    def _span(self, position: int, missing: int) -> Tensor:
        epoch, offset = divmod(position, self.count)
        if offset + missing <= self.count:
            return self._epoch(epoch)[offset : offset + missing]
        pieces = []
        while missing:
            pieces.append(self._epoch(epoch)[offset : offset + missing])
            missing -= len(pieces[-1])
            epoch, offset = epoch + 1, 0
        return torch.cat(pieces)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self.epochs:
            generator = derive_generator(self.seed, SeedStream.EPOCH_ORDER, epoch)
            order = torch.randperm(self.count, generator=generator).to(self.device)
            # The one before stays: a batch may reach over two epochs, and workers run ahead.
            self.epochs = {e: o for e, o in self.epochs.items() if e == epoch - 1} | {epoch: order}
        return self.epochs[epoch]

    def ahead(self, position: int, stride: int) -> Iterator[list[int]]:
        """The same for `position`, `position + stride` and so on, for workers to decode."""
        while True:
            yield self.index(position).tolist()
            position += stride


def share_of_batch(batch_size: int, rank: int, world_size: int) -> tuple[int, int]:
    """Where this process's share of a joint batch begins, and how many samples it is.

    Raises:
        BadInput: the batch cannot be divided evenly.
    """
    if batch_size < 1 or batch_size % world_size:
        raise BadInput(f"a batch of {batch_size} cannot be shared by {world_size} processes; use a multiple")
    share = batch_size // world_size
    return rank * share, share


# Methods of an endless stream whose position, how much was drawn so far, is its full state: what a class
# takes for `__iter__`, `state_dict` and `load_state_dict`.


def itself(stream: S) -> S:
    return stream


def position_state(stream: Any) -> dict[str, int]:
    return {"position": stream.position}


def load_position(stream: Any, state: dict[str, int]) -> None:
    stream.position = int(state["position"])
