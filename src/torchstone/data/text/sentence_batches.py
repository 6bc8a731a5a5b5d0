"""Sentences as rows of token ids, framed as BERT's are, in batches of like length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
IGNORE_INDEX = -100  # what cross-entropy passes over


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that stand around sentences, and the most tokens a row may have."""

    pad: int
    start: int
    stop: int
    hidden: int  # what a masked word is replaced with
    special: frozenset[int]
    length: int

    @classmethod
    def of(cls, tokenizer: Any, length: int) -> "Frame":
        """By the names of BERT's vocabulary.

        Raises:
            BadInput: the tokenizer lacks one of them; a row could hold no word.
        """
        ids = {name: tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
        if lost := [name for name, number in ids.items() if number is None]:
            raise BadInput(f"the tokenizer has no {lost[0]}: BERT's need {', '.join(SPECIAL_TOKENS)}")
        if length < 5:
            raise BadInput(f"length must be at least 5 (two words, framed), not {length}")
        pad, _, start, stop, hidden = ids.values()
        return cls(pad, start, stop, hidden, frozenset(ids.values()), length)

    def row(self, first: Sequence[int], second: Sequence[int] | None) -> tuple[list[int], int]:
        """[CLS] first [SEP] or [CLS] first [SEP] second [SEP], and where `second` begins.

        What is too long loses its end, the longer of two first (section A.2's rule)."""
        if second is None:
            row = [self.start, *first[: self.length - 2], self.stop]
            return row, len(row)
        room, a, b = self.length - 3, len(first), len(second)
        if a + b > room:
            a, b = (min(a, max(room - b, room - room // 2)), min(b, max(room - a, room // 2)))
        return [self.start, *first[:a], self.stop, *second[:b], self.stop], a + 2


class Rows(NamedTuple):
    """Rows side by side; `mask` is True where there is a token."""

    tokens: Int64[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    segments: Int64[Tensor, "batch time"]


def collate(rows: Sequence[tuple[list[int], int]], frame: SpecialTokens) -> Rows:
    """Framed rows with padding after the shorter ones, to a multiple of 8 tokens if there are so many
    places: few shapes to compile."""
    longest = min(-(-max(len(row) for row, _ in rows) // 8) * 8, frame.length)
    tokens = torch.tensor([row + [frame.pad] * (longest - len(row)) for row, _ in rows])
    places = torch.arange(longest)
    ends = torch.tensor([[len(row), second] for row, second in rows])
    mask = places < ends[:, :1]
    return Rows(tokens, mask, (mask & (places >= ends[:, 1:])).long())


class LengthGrouped:
    """Which samples come when: of `pool` batches' worth in a row those of like length together, since
    what is padded is computed for nothing. Every sample comes once an epoch, as in `Order`."""

    def __init__(self, lengths: Int64[Tensor, " samples"], batch: int, seed: int, pool: int = 16):
        self.lengths, self.batch, self.seed, self.pool = lengths, batch, seed, pool
        self.order = EpochSampler(len(lengths), [(0, batch * pool)], seed, lengths.device)
        self.group, self.drawn = -1, torch.empty(0)

    def index(self, position: int) -> Int64[Tensor, " batch"]:
        """The samples of the batch that begins at `position`."""
        group, place = divmod(position // self.batch, self.pool)
        if group != self.group:
            drawn = self.order.index(group * self.batch * self.pool)
            drawn = drawn[self.lengths[drawn].argsort(stable=True)].view(self.pool, self.batch)
            generator = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.LENGTH_GROUPS, group))
            self.drawn = drawn[torch.randperm(self.pool, generator=generator)]
            self.group = group
        return self.drawn[place]


class LabeledBatch(NamedTuple):
    """A batch to learn labels from: one a row, or one a token (`IGNORED` where there is none)."""

    rows: Rows
    labels: Int64[Tensor, "batch *time"]


class SentenceBatches:
    """Endless `Labelled` batches; the whole state is how many samples were consumed.

    `batch` counts the samples of all `world` processes together. Labels are one int a sample, or a
    list with one for each token of its framed row.
    """

    def __init__(
        self,
        rows: Sequence[tuple[list[int], int]],
        labels: Sequence[int] | Sequence[list[int]],
        batch: int,
        frame: SpecialTokens,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch, rank, world_size)
        if not rows:
            raise BadInput("no sentences to make batches of")
        self.rows, self.labels, self.frame, self.device = rows, labels, frame, device
        self.batch, self.rank, self.world_size = batch, rank, world_size
        self.alike = LengthGrouped(torch.tensor([len(row) for row, _ in rows]), batch, seed)
        self.position = 0

    def __iter__(self) -> "Sentences":
        return self

    def __next__(self) -> LabeledBatch:
        index = self.alike.index(self.position)
        self.position += self.batch
        return self.take(index.chunk(self.world_size)[self.rank].tolist())

    def take(self, index: Sequence[int]) -> LabeledBatch:
        """The samples of these numbers, side by side."""
        rows = collate([self.rows[i] for i in index], self.frame)
        labels = [self.labels[i] for i in index]
        if isinstance(labels[0], list):
            time = rows.tokens.shape[1]
            labels = [each + [IGNORE_INDEX] * (time - len(each)) for each in labels]  # ty: ignore
        rows = Rows(*(part.to(self.device) for part in rows))
        return LabeledBatch(rows, torch.tensor(labels).to(self.device))

    def once(self, batch: int = 256) -> Iterator[tuple[list[int], LabeledBatch]]:
        """All samples once, shorter ones first, with their numbers."""
        order = self.alike.lengths.argsort(stable=True)
        for index in order.split(batch):
            yield index.tolist(), self.take(index.tolist())

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
