"""Batches for pre-training: masked language modeling, and next-sentence or sentence-order prediction.

Devlin et al. 2018 (arXiv:1810.04805), section 3.1 and appendix A.1; Lan et al. 2019 (arXiv:1909.11942),
sections 3.1 and 4.1.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import itself, load_position, position_state, share_of_batch
from torchstone.data.text.ngram_masking import NGrams, choose_ngrams
from torchstone.data.text.sentence_batches import (
    IGNORE_INDEX,
    LengthGrouped,
    Row,
    Rows,
    SpecialTokens,
    collate,
)
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator


class MLMBatch(NamedTuple):
    """Rows with masked tokens, their positions, and the original tokens.

    `weights` weigh the losses of the masked tokens so that the mean over rows is the mean over the masked
    tokens of the whole batch, into however many micro-batches it is split. `is_random_next` is 0 where the
    second span follows the first in the text, 1 where it is a random one (in sentence-order prediction, where
    the two have changed places): the classes of the published heads. `token_weights` do for all tokens that
    are not padding what `weights` do for the masked ones.
    """

    rows: Rows
    positions: Int64[Tensor, "batch masked"]
    targets: Int64[Tensor, "batch masked"]
    weights: Float[Tensor, "batch masked"]
    is_random_next: Int64[Tensor, " batch"]
    token_weights: Float[Tensor, "batch time"] | None = None


class MLMBatches:
    """Endless `MLMBatch`es from documents; the whole state is the number of rows consumed.

    A row is a span of a document, as long as a row may be. With `next_sentence` the span is split in two, and
    in half of the rows the second part is replaced by a random span, or, with `sentence_order`, the two parts
    change places. Of the tokens to predict, 80 % are replaced by [MASK], 10 % by a random token, and 10 % are
    left unchanged.

    Args:
        documents: token ids without special tokens.
        vocab_size: number of token ids.
        mask_prob: share of the tokens to predict.
        ngrams: mask n-grams of whole words, at most so many tokens, and divide spans between words; by
            default tokens are masked one by one.
    """

    def __init__(
        self,
        documents: Sequence[Sequence[int]],
        batch_size: int,
        special: SpecialTokens,
        vocab_size: int,
        *,
        seed: int,
        next_sentence: bool = True,
        sentence_order: bool = False,
        mask_prob: float = 0.15,
        ngrams: NGrams | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch_size, rank, world_size)
        if not 0 < mask_prob < 1:
            raise BadInput(f"mask_prob must lie between 0 and 1, not {mask_prob}")
        self.documents = [document for document in documents if len(document) > 1]
        self.span_length = special.max_length - (3 if next_sentence else 2)
        self.spans = [
            (number, begin)
            for number, document in enumerate(self.documents)
            for begin in range(0, len(document) - 1, self.span_length)
        ]
        if not self.spans:
            raise BadInput("the text has no two tokens in a row: nothing to learn from")
        self.word_ids = torch.tensor([i for i in range(vocab_size) if i not in special.ids])
        self.special_ids = torch.tensor(sorted(special.ids))
        self.batch_size, self.special, self.seed = batch_size, special, seed
        self.next_sentence, self.mask_prob = next_sentence, mask_prob
        self.sentence_order, self.ngrams = sentence_order, ngrams
        self.is_start: list[bool] = [] if ngrams is None else ngrams.is_start.tolist()
        self.device, self.rank, self.world_size = device, rank, world_size
        lengths = [min(self.span_length, len(self.documents[n]) - begin) for n, begin in self.spans]
        self.order = LengthGrouped(torch.tensor(lengths), batch_size, seed)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> MLMBatch:
        generator = derive_generator(self.seed, SeedStream.MLM_MASKS, self.position)
        batch = self.make_batch(self.order.index(self.position).tolist(), generator)
        self.position += self.batch_size
        share = self.batch_size // self.world_size
        return self._to_device(batch, slice(self.rank * share, (self.rank + 1) * share))

    def eval_batches(self, batch_size: int = 64, max_spans: int = 512) -> Iterator[MLMBatch]:
        """The first `max_spans` spans, with the same tokens masked every time."""
        count = min(max_spans, len(self.spans))
        for start in range(0, count, batch_size):
            generator = derive_generator(0, SeedStream.MLM_MASKS, start)
            batch = self.make_batch(list(range(start, min(start + batch_size, count))), generator)
            yield self._to_device(batch, slice(None))

    def _to_device(self, batch: MLMBatch, rows: slice) -> MLMBatch:
        joint: tuple[Any, ...] = (*batch.rows, *batch[1:])
        columns = [column[rows].to(self.device) for column in joint]
        return MLMBatch(Rows(*columns[:3]), *columns[3:])

    def make_batch(self, index: Sequence[int], generator: torch.Generator) -> MLMBatch:
        """Rows of the spans of these indices, with random numbers from `generator`."""
        draws = torch.rand(len(index), 4, generator=generator).tolist()
        samples = [self._row(self.spans[i], draw) for i, draw in zip(index, draws, strict=True)]
        rows = collate([row for row, _ in samples], self.special)
        is_random_next = torch.tensor([label for _, label in samples])
        token_weights = rows.mask.float() * (len(rows.mask) / rows.mask.sum())
        return MLMBatch(*self._mask(rows, generator), is_random_next, token_weights)

    def _row(self, span: tuple[int, int], draw: list[float]) -> tuple[Row, int]:
        document, begin = self.documents[span[0]], span[1]
        last = max(0, len(document) - self.span_length)
        # shift the spans of long documents, so that they do not always begin at the same positions
        begin = min(last, int(begin + draw[0] * self.span_length)) if last else begin
        tokens = document[begin : begin + self.span_length]
        if not self.next_sentence:
            return self.special.build_row(tokens, None), 0
        cut = self._cut(tokens, draw[1])
        second, is_random = tokens[cut:], int(draw[2] < 0.5)
        if self.sentence_order:
            halves = (second, tokens[:cut]) if is_random else (tokens[:cut], second)
            return self.special.build_row(*halves), is_random
        if is_random:
            number, begin = self.spans[int(draw[3] * len(self.spans))]
            other = self.documents[number]
            begin = min(begin + 1, len(other) - 1)
            second = other[begin : begin + self.span_length - cut]
        return self.special.build_row(tokens[:cut], second), is_random

    def _cut(self, tokens: Sequence[int], draw: float) -> int:
        """Where a span is divided: between words if they are known, or half a word would tell the order."""
        cuts = range(1, len(tokens))
        if self.is_start:
            cuts = [i for i in cuts if self.is_start[tokens[i]]] or cuts
        return cuts[int(draw * len(cuts))]

    def _mask(self, rows: Rows, generator: torch.Generator):
        tokens = rows.tokens
        is_word = rows.mask & ~torch.isin(tokens, self.special_ids)
        counts = (is_word.sum(1) * self.mask_prob).round().long().clamp(min=1).minimum(is_word.sum(1))
        if self.ngrams is None:
            noise = torch.rand(tokens.shape, generator=generator).masked_fill(~is_word, 2.0)
            positions = noise.argsort(1)[:, : int(counts.max())]
        else:
            chosen = choose_ngrams(tokens, is_word, counts, self.ngrams, generator)
            counts = torch.tensor([len(row) for row in chosen])
            most = int(counts.max())
            positions = torch.tensor([row + [0] * (most - len(row)) for row in chosen], dtype=torch.int64)
        is_target = torch.arange(positions.shape[1]) < counts[:, None]
        targets = tokens.gather(1, positions).masked_fill(~is_target, IGNORE_INDEX)
        choice = torch.rand(positions.shape, generator=generator)
        random_words = torch.randint(len(self.word_ids), positions.shape, generator=generator)
        before = tokens.gather(1, positions)
        after = torch.where(choice < 0.9, self.word_ids[random_words], before)
        after = torch.where(choice < 0.8, self.special.mask, after)
        tokens = tokens.scatter(1, positions, torch.where(is_target, after, before))
        weights = is_target.float() * (len(tokens) / is_target.sum().clamp(min=1))
        return rows._replace(tokens=tokens), positions, targets, weights
