"""Rows of token ids, and batches of them: truncation, similar lengths, resuming, sharing."""

import dataclasses

import pytest
import torch

from torchstone.data.text import tokenizers
from torchstone.data.text.sentence_batches import (
    SPECIAL_TOKENS,
    LengthGrouped,
    SentenceBatches,
    SpecialTokens,
    collate,
)
from torchstone.errors import BadInput

MAX_LENGTH = 24
SPECIAL = SpecialTokens(0, 2, 3, 4, frozenset(range(5)), MAX_LENGTH)


def test_length_grouped_covers_an_epoch_in_batches_of_similar_length():
    lengths = torch.randint(3, 60, (320,))
    order, samples = LengthGrouped(lengths, 20, seed=0), []
    batches = [order.index(position) for position in range(0, 320, 20)]
    for index in batches:
        samples += index.tolist()
    spread = torch.stack([lengths[i].max() - lengths[i].min() for i in batches]).float().mean()
    print(f"lengths in a batch differ by {spread:.1f}, in all by {lengths.max() - lengths.min()}")
    assert sorted(samples) == list(range(320))
    assert spread < 8
    longest = [int(lengths[i].max()) for i in batches]
    assert longest != sorted(longest)  # short ones do not all come first
    later = LengthGrouped(lengths, 20, seed=0)
    assert torch.equal(later.index(100), batches[5])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (30, None, (22, None)),
        (5, None, (5, None)),
        (30, 30, (11, 10)),
        (4, 30, (4, 17)),
        (30, 4, (17, 4)),
        (10, 11, (10, 11)),
        (12, 9, (12, 9)),
        (1, 1, (1, 1)),
    ],
)
def test_build_row_truncates_the_longer_segment_first(first, second, expected):
    a, b = [10] * first, None if second is None else [20] * second
    row, begins = SPECIAL.build_row(a, b)
    assert len(row) <= MAX_LENGTH
    assert (row.count(10), row.count(20)) == (expected[0], expected[1] or 0)
    assert row[0] == SPECIAL.cls
    assert row.count(SPECIAL.sep) == 1 + (second is not None)
    assert begins == expected[0] + 2
    rows = collate([(row, begins), SPECIAL.build_row([7], None)], SPECIAL)
    assert rows.tokens.shape[1] % 8 == 0
    short = dataclasses.replace(SPECIAL, max_length=len(row))
    assert collate([(row, begins)], short).tokens.shape[1] == len(row)  # no more than the maximum length
    assert rows.mask.sum(1).tolist() == [len(row), 3]
    assert int(rows.segments.sum()) == len(row) - begins


def test_sentence_batches_resume_are_shared_and_evaluate_all():
    rows = [SPECIAL.build_row([5 + i] * (1 + i % 9), None) for i in range(50)]
    labels = [i % 3 for i in range(50)]
    make = lambda **options: SentenceBatches(rows, labels, 10, SPECIAL, seed=3, **options)  # noqa: E731
    first = make()
    batches = [next(first) for _ in range(4)]
    late = make()
    late.load_state_dict({"position": 30})
    assert torch.equal(next(late).rows.tokens, batches[3].rows.tokens)
    parts = [next(make(rank=rank, world_size=2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([p.labels for p in parts]), batches[0].labels)
    numbers = [number for index, _ in first.eval_batches(batch_size=16) for number in index]
    assert sorted(numbers) == list(range(50))
    for index, batch in first.eval_batches(batch_size=16):
        assert (batch.labels == torch.tensor([i % 3 for i in index])).all()
        assert (batch.rows.tokens[:, 1] == torch.tensor([5 + i for i in index])).all()


def test_sentence_batches_reject_no_sentences():
    with pytest.raises(BadInput, match="no sentences"):
        SentenceBatches([], [], 4, SPECIAL, seed=0)


def test_special_tokens_from_tokenizer_rejects_missing_tokens_and_short_rows():
    tokenizer = tokenizers.train("wordpiece", ["a b c"], size=40, special=SPECIAL_TOKENS)
    assert SpecialTokens.from_tokenizer(tokenizer, 24).ids == SPECIAL.ids
    with pytest.raises(BadInput, match="length must be at least 5"):
        SpecialTokens.from_tokenizer(tokenizer, 4)
    characters = tokenizers.train("characters", ["abc"], size=40, special=("[PAD]", "[UNK]"))
    with pytest.raises(BadInput, match=r"no \[CLS\]"):
        SpecialTokens.from_tokenizer(characters, 24)
