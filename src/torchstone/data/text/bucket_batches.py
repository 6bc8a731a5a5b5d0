"""Batches of token sequences of like length, without end; their whole state is how many were drawn."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed


class PackedSequences:
    """Sequences of different lengths, one after another in one tensor, so that none is padded."""

    def __init__(self, sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu"):
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])
        flat = [token for sequence in sequences for token in sequence]
        self.flat = torch.tensor(flat, dtype=torch.int32, device=device)
        self.starts = (self.lengths.cumsum(0) - self.lengths).to(device)
        self.sizes = self.lengths.to(device)

    def __len__(self) -> int:
        return len(self.lengths)

    def pad_rows(self, rows: Int64[Tensor, " rows"], pad: int) -> Int64[Tensor, "rows longest"]:
        """Some of them, side by side, the shorter ones filled up with `pad`."""
        places = torch.arange(int(self.lengths[rows].max()), device=self.flat.device)
        rows = rows.to(self.flat.device)
        inside = places < self.sizes[rows][:, None]
        index = torch.where(inside, self.starts[rows][:, None] + places, 0)
        return torch.where(inside, self.flat[index].long(), pad)


class BucketBatches:
    """Endless (source, target) batches of about `tokens` target tokens, padding included.

    Each epoch the pairs are shuffled, sorted by length, cut where `tokens` are reached, and the
    batches are shuffled: pairs of one length meet others each time, and there is next to no padding.
    Where the cuts fall depends on the lengths alone, so the number of batches drawn says all: what
    comes next after resuming, and how `world` processes share each batch (process `rank` takes every
    world-th row of it).

    Yields int64 (rows, longest source) and (rows, longest target).
    """

    def __init__(
        self,
        sources: PackedSequences,
        targets: PackedSequences,
        tokens: int,
        *,
        pad: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(sources) < world_size:
            raise BadInput(f"{len(sources)} pairs are too few to make batches for {world_size} processes")
        if tokens < world_size * int(targets.lengths.max()):
            raise BadInput(
                f"a batch of {tokens} tokens cannot hold the longest sentence "
                f"({int(targets.lengths.max())} tokens) for each of {world_size} processes: raise batch"
            )
        self.sources, self.targets, self.tokens = sources, targets, tokens
        self.pad, self.seed, self.rank, self.world_size = pad, seed, rank, world_size
        self.lengths = targets.lengths * (int(sources.lengths.max()) + 1) + sources.lengths
        self.cuts = self._cuts()
        self.position = 0
        self.epoch = (-1, torch.empty(0), torch.empty(0))

    def _cuts(self) -> list[tuple[int, int]]:
        """First and last place of each batch in the sorted order."""
        order = self.lengths.argsort()
        cuts, first = [], 0
        for place, length in enumerate(self.targets.lengths[order].tolist()):
            if (place + 1 - first) * length > self.tokens and place - first >= self.world_size:
                cuts.append((first, place))
                first = place
        if len(order) - first < self.world_size and cuts:  # too few for each process to have one
            first = cuts.pop()[0]
        return [*cuts, (first, len(order))]

    def __iter__(self) -> "Buckets":
        return self

    def __next__(self) -> tuple[Int64[Tensor, "rows m"], Int64[Tensor, "rows n"]]:
        number, place = divmod(self.position, len(self.cuts))
        if self.epoch[0] != number:
            self.epoch = self._epoch(number)
        _, order, batches = self.epoch
        first, last = self.cuts[batches[place]]
        rows = order[first + self.rank : last : self.world_size]
        self.position += 1
        return self.sources.pad_rows(rows, self.pad), self.targets.pad_rows(rows, self.pad)

    def _epoch(self, number: int) -> tuple[int, Tensor, Tensor]:
        def shuffled(purpose: int, count: int) -> Tensor:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, purpose, number))
            return torch.randperm(count, generator=generator)

        order = shuffled(SeedStream.EPOCH_ORDER, len(self.sources))
        order = order[self.lengths[order].argsort(stable=True)]
        return number, order, shuffled(SeedStream.LENGTH_BUCKETS, len(self.cuts))

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
