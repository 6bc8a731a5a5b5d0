"""Batches of token sequences of similar length, without end; their whole state is how many were drawn."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.data.sampler import itself, load_position, position_state
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator


class PackedSequences:
    """Sequences of different lengths, concatenated in one tensor, so that none is padded."""

    def __init__(self, sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu"):
        self.lengths = torch.tensor([len(sequence) for sequence in sequences])
        flat = [token for sequence in sequences for token in sequence]
        self.flat = torch.tensor(flat, dtype=torch.int32, device=device)
        self.starts = (self.lengths.cumsum(0) - self.lengths).to(device)
        self.sizes = self.lengths.to(device)

    def __len__(self) -> int:
        return len(self.lengths)

    def pad_rows(self, rows: Int64[Tensor, " rows"], pad: int) -> Int64[Tensor, "rows longest"]:
        """Some of the sequences as a batch, the shorter ones padded with `pad`."""
        positions = torch.arange(int(self.lengths[rows].max()), device=self.flat.device)
        rows = rows.to(self.flat.device)
        inside = positions < self.sizes[rows][:, None]
        index = torch.where(inside, self.starts[rows][:, None] + positions, 0)
        return torch.where(inside, self.flat[index].long(), pad)


class BucketBatches:
    """Endless (source, target) batches of about `tokens` target tokens, padding included.

    In each epoch the pairs are shuffled, sorted by length and cut into batches of `tokens`, and the batches
    are shuffled: pairs of one length are batched with others each time, and there is next to no padding.
    The cuts depend on the lengths alone, so the number of batches drawn determines everything: what comes
    next after resuming, and how `world_size` processes share each batch (process `rank` takes every
    `world_size`-th row of it).

    Yields int64 (rows, longest source) and (rows, longest target).

    Raises:
        BadInput: fewer pairs than processes, or a batch that cannot hold the longest sentence.
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
                f"({int(targets.lengths.max())} tokens) for each of {world_size} processes: raise batch_size"
            )
        self.sources, self.targets, self.tokens = sources, targets, tokens
        self.pad, self.seed, self.rank, self.world_size = pad, seed, rank, world_size
        self.lengths = targets.lengths * (int(sources.lengths.max()) + 1) + sources.lengths
        self.cuts = self._cuts()
        self.position = 0
        self.epoch = (-1, torch.empty(0), torch.empty(0))

    def _cuts(self) -> list[tuple[int, int]]:
        """First and last index of each batch in the sorted order."""
        order = self.lengths.argsort()
        cuts, first = [], 0
        for index, length in enumerate(self.targets.lengths[order].tolist()):
            if (index + 1 - first) * length > self.tokens and index - first >= self.world_size:
                cuts.append((first, index))
                first = index
        if len(order) - first < self.world_size and cuts:  # too few for each process to have one
            first = cuts.pop()[0]
        return [*cuts, (first, len(order))]

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> tuple[Int64[Tensor, "rows m"], Int64[Tensor, "rows n"]]:
        epoch, index = divmod(self.position, len(self.cuts))
        if self.epoch[0] != epoch:
            self.epoch = self._shuffle(epoch)
        _, order, batches = self.epoch
        first, last = self.cuts[batches[index]]
        rows = order[first + self.rank : last : self.world_size]
        self.position += 1
        return self.sources.pad_rows(rows, self.pad), self.targets.pad_rows(rows, self.pad)

    def _shuffle(self, epoch: int) -> tuple[int, Tensor, Tensor]:
        """The epoch's number, its pairs in sorted order, and the order of its batches."""

        def permutation(stream: int, count: int) -> Tensor:
            generator = derive_generator(self.seed, stream, epoch)
            return torch.randperm(count, generator=generator)

        order = permutation(SeedStream.EPOCH_ORDER, len(self.sources))
        order = order[self.lengths[order].argsort(stable=True)]
        return epoch, order, permutation(SeedStream.LENGTH_BUCKETS, len(self.cuts))
