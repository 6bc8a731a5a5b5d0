"""Batches for a codec, crops of sounds; and for language models of its tokens, rows of one speaker."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchstone.data.sampler import EpochSampler, itself, load_position, position_state, share_of_batch
from torchstone.parts.seeding import SeedStream, derive_generator

IGNORED = -100  # target without loss: the default of torch's cross-entropy
POOL = 8  # batches that rows are grouped by length within


class WaveBatch(NamedTuple):
    """Crops of sounds, and for each entry of each codebook a number on 0..1: which of the batch's vectors it
    is put at, if it is unused."""

    waveforms: Float[Tensor, "share 1 samples"]
    candidates: Float[Tensor, "books codes"]


class WaveBatches:
    """Endless `WaveBatch`; the position, the sounds so far, is the full state.

    A sound longer than `samples` is cropped at random, a shorter one is followed by silence.

    Args:
        books, codes: of the codebooks that `candidates` are for.
    """

    def __init__(
        self,
        waveforms: Sequence[Float[Tensor, " _"]],
        samples: int,
        batch_size: int,
        *,
        books: int,
        codes: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch_size, rank, world_size)
        self.waveforms, self.samples, self.batch_size = waveforms, samples, batch_size
        self.books, self.codes, self.seed, self.device = books, codes, seed, device
        self.own = slice(rank, None, world_size)
        self.order = EpochSampler(len(waveforms), [(0, batch_size)], seed, torch.device("cpu"))
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> WaveBatch:
        generator = derive_generator(self.seed, SeedStream.CODEBOOK, self.position)
        offsets = torch.rand(self.batch_size, generator=generator).tolist()
        candidates = torch.rand(self.books, self.codes, generator=generator)
        index = self.order.index(self.position).tolist()
        crops = []
        for i, offset in list(zip(index, offsets, strict=True))[self.own]:
            wave = self.waveforms[i]
            first = int(offset * max(1, len(wave) - self.samples + 1))
            crop = wave[first : first + self.samples]
            crops.append(F.pad(crop, (0, self.samples - len(crop))))
        self.position += self.batch_size
        return WaveBatch(torch.stack(crops)[:, None].to(self.device), candidates.to(self.device))


class TokenBatch(NamedTuple):
    """Tokens, and for each the next one; `IGNORED` where that has no loss."""

    tokens: Int64[Tensor, "batch time"]
    targets: Int64[Tensor, "batch time"]


# index of the recordings of a row, and random numbers for it -> its tokens and targets
RowBuilder = Callable[[Sequence[int], torch.Generator], tuple[Tensor, Tensor]]


class TokenBatches:
    """Endless `TokenBatch`es of similar lengths; the position, the rows so far, is the full state.

    A row is of one recording, or with probability `pair_probability` of that and another of its speaker.

    Args:
        speakers: of each recording.
        build_row: makes a row's tokens.
    """

    def __init__(
        self,
        speakers: Sequence[str],
        build_row: RowBuilder,
        batch_size: int,
        *,
        pair_probability: float,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch_size, rank, world_size)
        self.speakers, self.build_row, self.batch_size = speakers, build_row, batch_size
        self.pair_probability, self.seed, self.device = pair_probability, seed, device
        self.own = slice(rank, None, world_size)
        self.by_speaker: dict[str, list[int]] = defaultdict(list)
        for i, speaker in enumerate(speakers):
            self.by_speaker[speaker].append(i)
        count = POOL * batch_size
        self.order = EpochSampler(len(speakers), [(0, count)], seed, torch.device("cpu"))
        self.pool: tuple[int, list[list[tuple[Tensor, Tensor]]]] = (-1, [])
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> TokenBatch:
        number, within = divmod(self.position // self.batch_size, POOL)
        if self.pool[0] != number:
            self.pool = (number, self._make_pool(number))
        rows = self.pool[1][within][self.own]
        self.position += self.batch_size
        return collate(rows, self.device)

    def _make_pool(self, number: int) -> list[list[tuple[Tensor, Tensor]]]:
        """The rows of `POOL` batches, by length; the batches in random order."""
        generator = derive_generator(self.seed, SeedStream.AUGMENTATION, number)
        rows = []
        for i in self.order.index(number * POOL * self.batch_size).tolist():
            index = [i]
            if float(torch.rand((), generator=generator)) < self.pair_probability:
                others = self.by_speaker[self.speakers[i]]
                index.append(others[int(torch.randint(len(others), (), generator=generator))])
            rows.append(self.build_row(index, generator))
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[first : first + self.batch_size] for first in range(0, len(rows), self.batch_size)]
        return [batches[i] for i in torch.randperm(POOL, generator=generator).tolist()]


def collate(rows: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> TokenBatch:
    """Rows padded to the longest; what pads has no loss."""
    tokens = pad_sequence([row[0] for row in rows], batch_first=True)
    targets = pad_sequence([row[1] for row in rows], batch_first=True, padding_value=IGNORED)
    return TokenBatch(tokens.to(device), targets.to(device))
