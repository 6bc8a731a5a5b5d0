"""Endless batches of labeled sequences of vectors, grouped by length."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchstone.data.sampler import itself, load_position, position_state, share_of_batch
from torchstone.data.text.sentence_batches import LengthGrouped
from torchstone.parts.seeding import SeedStream, derive_generator


class SequenceBatch(NamedTuple):
    """Padded sequences, their lengths (on the CPU) and classes."""

    x: Float[Tensor, "batch time width"]
    lengths: Int64[Tensor, " batch"]
    labels: Int64[Tensor, " batch"]


class SequenceBatches:
    """Endless `SequenceBatch`es of similar lengths; the position, the samples so far, is the full state.

    A sequence longer than `max_length` is cropped at random; noise with standard deviation `noise_std` is
    added to every vector. Both are drawn by position for the full batch, which all processes share.
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        labels: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        max_length: int,
        noise_std: float = 0.0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch_size, rank, world_size)
        self.rows, self.labels, self.batch_size, self.seed = rows, labels, batch_size, seed
        self.max_length, self.noise_std, self.device = max_length, noise_std, device
        self.rank, self.world_size = rank, world_size
        lengths = torch.tensor([min(len(row), max_length) for row in rows])
        # no pool is larger than an epoch, or a batch would hold a sample several times
        pool = max(1, min(16, len(lengths) // batch_size))
        self.grouped = LengthGrouped(lengths, batch_size, seed, pool=pool)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> SequenceBatch:
        generator = derive_generator(self.seed, SeedStream.AUGMENTATION, self.position)
        index = self.grouped.index(self.position)
        offsets = torch.rand(len(index), generator=generator).tolist()
        rows = []
        for i, offset in zip(index.tolist(), offsets, strict=True):
            first = int(offset * max(1, len(self.rows[i]) - self.max_length + 1))
            row = self.rows[i][first : first + self.max_length]
            rows.append(row + self.noise_std * torch.randn(row.shape, generator=generator))
        labels = [self.labels[i] for i in index.tolist()]
        own = slice(self.rank, None, self.world_size)
        self.position += self.batch_size
        return collate(rows[own], labels[own], self.device)


def collate(
    rows: Sequence[Tensor], labels: Sequence[int], device: torch.device | str = "cpu"
) -> SequenceBatch:
    """Sequences padded with 0 to the longest."""
    x = pad_sequence(list(rows), batch_first=True).to(device)
    return SequenceBatch(x, torch.tensor([len(r) for r in rows]), torch.tensor(labels).to(device))


def eval_batches(
    rows: Sequence[Tensor], labels: Sequence[int], device: torch.device | str, batch_size: int = 128
) -> Iterator[tuple[list[int], SequenceBatch]]:
    """Batches of all full sequences in order of length, with their indices."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for first in range(0, len(order), batch_size):
        index = order[first : first + batch_size]
        yield index, collate([rows[i] for i in index], [labels[i] for i in index], device)
