"""Sentences and sentence pairs as rows of BERT's token ids, in batches of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from torchstone.data.sampler import EpochSampler, itself, load_position, position_state, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# the same as ALBERT's vocabulary spells them
ALBERT_TOKENS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
# as RoBERTa's and Longformer's does
ROBERTA_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
IGNORE_INDEX = -100  # label without loss: the default of torch's cross-entropy

Row = tuple[list[int], int]  # token ids, and the index at which the second segment begins


def special_tokens_of(tokenizer: Any) -> tuple[str, ...]:
    """How a vocabulary spells the five special tokens, in the order of `SPECIAL_TOKENS`; where it has no
    spelling whole, the one to complain about."""
    for names in (SPECIAL_TOKENS, ROBERTA_TOKENS, ALBERT_TOKENS):
        if all(tokenizer.token_to_id(name) is not None for name in names):
            return names
    is_partly_albert = tokenizer.token_to_id("[PAD]") is None and tokenizer.token_to_id("<pad>") is not None
    return ALBERT_TOKENS if is_partly_albert else SPECIAL_TOKENS


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of BERT's special tokens, and the maximum length of a row."""

    pad: int
    cls: int
    sep: int
    mask: int
    ids: frozenset[int]  # all of them, [UNK] included
    max_length: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, max_length: int) -> "SpecialTokens":
        """Look the tokens up by their names in BERT's vocabulary, or in ALBERT's or RoBERTa's.

        Raises:
            BadInput: the tokenizer lacks one of them; a row could not hold two words.
        """
        names = special_tokens_of(tokenizer)
        ids = {name: tokenizer.token_to_id(name) for name in names}
        if missing := [name for name, number in ids.items() if number is None]:
            raise BadInput(f"the tokenizer has no {missing[0]}: BERT's need {', '.join(SPECIAL_TOKENS)}")
        if max_length < 5:
            raise BadInput(f"max_length must be at least 5 (two words and three marks), not {max_length}")
        pad, _, start, end, mask = ids.values()
        return cls(pad, start, end, mask, frozenset(ids.values()), max_length)

    def build_row(self, first: Sequence[int], second: Sequence[int] | None) -> Row:
        """[CLS] first [SEP] or [CLS] first [SEP] second [SEP], and the index at which `second` begins.

        Rows that are too long are truncated at the end, the longer segment first (section A.2's rule).
        """
        if second is None:
            row = [self.cls, *first[: self.max_length - 2], self.sep]
            return row, len(row)
        room, a, b = self.max_length - 3, len(first), len(second)
        if a + b > room:
            a, b = (min(a, max(room - b, room - room // 2)), min(b, max(room - a, room // 2)))
        return [self.cls, *first[:a], self.sep, *second[:b], self.sep], a + 2


class Rows(NamedTuple):
    """Padded rows; `mask` is True where there is a token."""

    tokens: Int64[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    segments: Int64[Tensor, "batch time"]


def collate(rows: Sequence[Row], special: SpecialTokens) -> Rows:
    """Pad rows to the longest, rounded up to a multiple of 8 tokens (few shapes to compile) if rows of
    that length are allowed."""
    time = min(-(-max(len(row) for row, _ in rows) // 8) * 8, special.max_length)
    tokens = torch.tensor([row + [special.pad] * (time - len(row)) for row, _ in rows])
    positions = torch.arange(time)
    ends = torch.tensor([[len(row), second] for row, second in rows])
    mask = positions < ends[:, :1]
    return Rows(tokens, mask, (mask & (positions >= ends[:, 1:])).long())


class LengthGrouped:
    """The order of samples: of every `pool` batches, samples of similar length share a batch, since
    padding costs computation. Every sample comes once an epoch, as in `EpochSampler`."""

    def __init__(self, lengths: Int64[Tensor, " samples"], batch_size: int, seed: int, pool: int = 16):
        self.lengths, self.batch_size, self.seed, self.pool = lengths, batch_size, seed, pool
        self.order = EpochSampler(len(lengths), [(0, batch_size * pool)], seed, lengths.device)
        self.group, self.batches = -1, torch.empty(0)

    def index(self, position: int) -> Int64[Tensor, " batch"]:
        """The samples of the batch that begins at `position`."""
        group, number = divmod(position // self.batch_size, self.pool)
        if group != self.group:
            samples = self.order.index(group * self.batch_size * self.pool)
            by_length = samples[self.lengths[samples].argsort(stable=True)]
            batches = by_length.view(self.pool, self.batch_size)
            generator = derive_generator(self.seed, SeedStream.LENGTH_GROUPS, group)
            self.batches = batches[torch.randperm(self.pool, generator=generator)]
            self.group = group
        return self.batches[number]


class LabeledBatch(NamedTuple):
    """Rows and their labels: one label a row, or one a token (`IGNORE_INDEX` where there is none)."""

    rows: Rows
    labels: Int64[Tensor, "batch *time"]


class SentenceBatches:
    """Endless `LabeledBatch`es; the whole state is the number of samples consumed.

    `batch_size` counts the samples of all processes together. Labels are one int per sample, or a list
    with one int per token of its row.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        labels: Sequence[int] | Sequence[list[int]],
        batch_size: int,
        special: SpecialTokens,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch_size, rank, world_size)
        if not rows:
            raise BadInput("no sentences to make batches of")
        self.rows, self.labels, self.special, self.device = rows, labels, special, device
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.order = LengthGrouped(torch.tensor([len(row) for row, _ in rows]), batch_size, seed)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> LabeledBatch:
        index = self.order.index(self.position)
        self.position += self.batch_size
        return self.collate(index.chunk(self.world_size)[self.rank].tolist())

    def collate(self, index: Sequence[int]) -> LabeledBatch:
        """The samples of these indices as one batch."""
        rows = collate([self.rows[i] for i in index], self.special)
        labels = [self.labels[i] for i in index]
        if isinstance(labels[0], list):
            time = rows.tokens.shape[1]
            labels = [each + [IGNORE_INDEX] * (time - len(each)) for each in labels]  # ty: ignore
        rows = Rows(*(column.to(self.device) for column in rows))
        return LabeledBatch(rows, torch.tensor(labels).to(self.device))

    def eval_batches(self, batch_size: int = 256) -> Iterator[tuple[list[int], LabeledBatch]]:
        """All samples once, shorter ones first, with their indices."""
        order = self.order.lengths.argsort(stable=True)
        for index in order.split(batch_size):
            yield index.tolist(), self.collate(index.tolist())
