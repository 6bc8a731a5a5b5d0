"""Batches of labelled sequences of vectors of like length, without end."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchstone.data.sampler import share_of_batch
from torchstone.data.text.sentence_batches import Alike
from torchstone.parts.seeding import SeedStream, derive_seed


class SequenceBatch(NamedTuple):
    """Sequences side by side, their lengths (on the CPU) and classes."""

    x: Float[Tensor, "batch time width"]
    lengths: Int64[Tensor, " batch"]
    labels: Int64[Tensor, " batch"]


class SequenceBatches:
    """Endless `Passage` batches of those of like length; the whole state is how many were consumed.

    Of a longer sequence a passage of `most` vectors is taken, another one each time; numbers of
    deviation `jitter` are added to every vector. Both are drawn by position, for the whole batch,
    which the `world` processes share.
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        labels: Sequence[int],
        batch: int,
        *,
        seed: int,
        most: int,
        jitter: float = 0.0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch, rank, world_size)
        self.rows, self.labels, self.batch, self.seed = rows, labels, batch, seed
        self.most, self.jitter, self.device = most, jitter, device
        self.rank, self.world_size = rank, world_size
        lengths = torch.tensor([min(len(row), most) for row in rows])
        # no pool is larger than an epoch, or a batch would hold one several times
        self.alike = Alike(lengths, batch, seed, pool=max(1, min(16, len(lengths) // batch)))
        self.position = 0

    def __iter__(self) -> "Passages":
        return self

    def __next__(self) -> SequenceBatch:
        draw = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.AUGMENTATION, self.position))
        index = self.alike.index(self.position)
        begins = torch.rand(len(index), generator=draw).tolist()
        rows = []
        for i, begin in zip(index.tolist(), begins, strict=True):
            first = int(begin * max(1, len(self.rows[i]) - self.most + 1))
            row = self.rows[i][first : first + self.most]
            rows.append(row + self.jitter * torch.randn(row.shape, generator=draw))
        labels = [self.labels[i] for i in index.tolist()]
        mine = slice(self.rank, None, self.world_size)
        self.position += self.batch
        return collate(rows[mine], labels[mine], self.device)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


def collate(
    rows: Sequence[Tensor], labels: Sequence[int], device: torch.device | str = "cpu"
) -> SequenceBatch:
    """Sequences filled up with 0 to the longest."""
    x = pad_sequence(list(rows), batch_first=True).to(device)
    return SequenceBatch(x, torch.tensor([len(r) for r in rows]), torch.tensor(labels).to(device))


def eval_batches(
    rows: Sequence[Tensor], labels: Sequence[int], device: torch.device | str, batch: int = 128
) -> Iterator[tuple[list[int], SequenceBatch]]:
    """All of them once, whole, shorter ones first, with their numbers."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for first in range(0, len(order), batch):
        index = order[first : first + batch]
        chosen = [rows[i] for i in index], [labels[i] for i in index]
        yield index, collate(*chosen, device)
