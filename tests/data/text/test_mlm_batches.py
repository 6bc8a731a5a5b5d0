"""Hidden words and framed rows: what the paper says is hidden, drawn anew by place, shared and resumed."""

import dataclasses
from collections import Counter
from itertools import pairwise

import pytest
import torch

from torchstone.data.text import tokenizers
from torchstone.data.text.mlm_batches import MLMBatches
from torchstone.data.text.sentence_batches import (
    IGNORE_INDEX,
    SPECIAL_TOKENS,
    LengthGrouped,
    SentenceBatches,
    SpecialTokens,
    collate,
)
from torchstone.errors import BadInput

SIZE, LENGTH = 200, 24
FRAME = SpecialTokens(0, 2, 3, 4, frozenset(range(5)), LENGTH)


def documents(count=40, seed=0):
    """Each counts up from a number of its own, so that what follows what can be seen."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(5, 150, (count,), generator=generator).tolist()
    lengths = torch.randint(2, 90, (count,), generator=generator).tolist()
    return [[5 + (a - 5 + i) % (SIZE - 5) for i in range(n)] for a, n in zip(starts, lengths, strict=True)]


def stream(batch=32, **options):
    return MLMBatches(documents(), batch, FRAME, SIZE, **{"seed": 1, "pairs": False, **options})


def restored(batch):
    """The tokens as they were."""
    there = batch.targets != IGNORE_INDEX
    before = batch.rows.tokens.gather(1, batch.places)
    return batch.rows.tokens.scatter(1, batch.places, torch.where(there, batch.targets, before))


def test_80_10_10_of_15_percent():
    text, fates, told, whole = stream(batch=64), Counter(), 0, 0
    for _ in range(60):
        batch = next(text)
        there = batch.targets != IGNORE_INDEX
        shown = batch.rows.tokens.gather(1, batch.places)[there]
        was = batch.targets[there]
        fates["mask"] += int((shown == FRAME.hidden).sum())
        fates["same"] += int((shown == was).sum())
        fates["other"] += int(((shown != was) & (shown != FRAME.hidden)).sum())
        assert not set(was.tolist()) & FRAME.special
        told += int(there.sum())
        counted = batch.rows.mask.sum(1) - 2
        whole += int(counted.sum())
        # as many as 15 % of each row, to the nearest, and one at least
        expected = (counted * 0.15).round().clamp(min=1)
        assert torch.equal(there.sum(1).float(), expected)
        # what is not told stays as it was
        untouched = torch.ones_like(batch.rows.mask).scatter(1, batch.places, False)
        assert torch.equal(restored(batch)[untouched], batch.rows.tokens[untouched])
    shares = {name: count / told for name, count in fates.items()}
    print(f"{told} of {whole} told: {shares}")
    assert shares["mask"] == pytest.approx(0.8, abs=0.015)
    # one in 195 of the random ones is itself
    assert shares["same"] == pytest.approx(0.1 + 0.1 / 195, abs=0.012)
    assert told / whole == pytest.approx(0.15, abs=0.02)


def test_rows_are_spans_of_documents():
    text = stream()
    follows = {pair for document in documents() for pair in pairwise(document)}
    for _ in range(10):
        batch = next(text)
        for row, mask in zip(restored(batch).tolist(), batch.rows.mask, strict=True):
            words = row[1 : int(mask.sum()) - 1]
            assert row[0] == FRAME.start
            assert row[len(words) + 1] == FRAME.stop
            assert set(row[len(words) + 2 :]) <= {FRAME.pad}
            assert all(pair in follows for pair in pairwise(words))


def test_half_of_the_second_spans_are_from_elsewhere():
    text, counted, belongs = stream(pairs=True, batch=64), Counter(), Counter()
    for _ in range(20):
        batch = next(text)
        assert batch.rows.tokens.shape[1] <= LENGTH
        for row, segments, stray in zip(
            restored(batch).tolist(), batch.rows.segments, batch.stray.tolist(), strict=True
        ):
            counted[stray] += 1
            first = row.index(FRAME.stop)
            second = row[first + 1 :][: row[first + 1 :].index(FRAME.stop)]
            assert segments[: first + 1].sum() == 0
            assert int(segments.sum()) == len(second) + 1
            goes_on = second[0] == 5 + (row[first - 1] - 5 + 1) % (SIZE - 5)
            belongs[stray] += goes_on
    print(counted, belongs)
    assert counted[1] / sum(counted.values()) == pytest.approx(0.5, abs=0.05)
    assert belongs[0] == counted[0]
    assert belongs[1] / counted[1] < 0.1


def test_shares_make_the_mean_over_all_hidden_words():
    for batch in (next(stream()), next(stream(batch=7, pairs=True))):
        each = torch.rand(batch.targets.shape)
        there = batch.targets != IGNORE_INDEX
        by_rows = (each * batch.share).sum(1).mean()
        assert float(by_rows) == pytest.approx(float(each[there].mean()), rel=1e-5)


def same(a, b) -> bool:
    flat = [(*x.rows, *x[1:]) for x in (a, b)]
    return all(torch.equal(p, q) for p, q in zip(*flat, strict=True))


def test_the_seed_and_the_place_decide():
    first, again, other = stream(), stream(), stream(seed=2)
    batches = [next(first) for _ in range(5)]
    assert all(same(batch, next(again)) for batch in batches)
    assert not same(batches[0], next(other))
    late = stream()
    late.load_state_dict({"position": 3 * 32})
    assert same(next(late), batches[3])
    assert late.state_dict() == {"position": 4 * 32}
    for count in (64, 512):
        a, b = (list(stream(seed=s).once(most=count)) for s in (1, 2))
        assert all(same(x, y) for x, y in zip(a, b, strict=True))


def test_processes_share_a_batch():
    whole = next(stream(pairs=True))
    parts = [next(stream(pairs=True, rank=rank, world_size=2)) for rank in (0, 1)]
    for field in ("places", "targets", "share", "stray"):
        joined = torch.cat([getattr(part, field) for part in parts])
        assert torch.equal(joined, getattr(whole, field))
    assert torch.equal(torch.cat([p.rows.tokens for p in parts]), whole.rows.tokens)
    with pytest.raises(BadInput, match="32 cannot be shared by 3"):
        stream(world_size=3)


def test_like_lengths_together_and_each_once_an_epoch():
    lengths = torch.randint(3, 60, (320,))
    alike, seen = LengthGrouped(lengths, 20, seed=0), []
    batches = [alike.index(position) for position in range(0, 320, 20)]
    for index in batches:
        seen += index.tolist()
    spread = torch.stack([lengths[i].max() - lengths[i].min() for i in batches]).float().mean()
    print(f"lengths in a batch differ by {spread:.1f}, in all by {lengths.max() - lengths.min()}")
    assert sorted(seen) == list(range(320))
    assert spread < 8
    order = [int(lengths[i].max()) for i in batches]
    assert order != sorted(order)  # short ones do not all come first
    later = LengthGrouped(lengths, 20, seed=0)
    assert torch.equal(later.index(100), batches[5])


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [(30, None, (22, None)), (5, None, (5, None)), (30, 30, (11, 10)), (4, 30, (4, 17)),
     (30, 4, (17, 4)), (10, 11, (10, 11)), (12, 9, (12, 9)), (1, 1, (1, 1))],
)  # fmt: skip
def test_what_is_too_long_loses_its_end(first, second, kept):
    a, b = [10] * first, None if second is None else [20] * second
    row, begins = FRAME.row(a, b)
    assert len(row) <= LENGTH
    assert (row.count(10), row.count(20)) == (kept[0], kept[1] or 0)
    assert row[0] == FRAME.start
    assert row.count(FRAME.stop) == 1 + (second is not None)
    assert begins == kept[0] + 2
    rows = collate([(row, begins), FRAME.row([7], None)], FRAME)
    assert rows.tokens.shape[1] % 8 == 0
    short = dataclasses.replace(FRAME, length=len(row))
    assert collate([(row, begins)], short).tokens.shape[1] == len(row)  # no more than places
    assert rows.mask.sum(1).tolist() == [len(row), 3]
    assert int(rows.segments.sum()) == len(row) - begins


def test_sentences_are_resumed_shared_and_all_measured():
    rows = [FRAME.row([5 + i] * (1 + i % 9), None) for i in range(50)]
    make = lambda **o: SentenceBatches(rows, [i % 3 for i in range(50)], 10, FRAME, seed=3, **o)  # noqa: E731
    first = make()
    batches = [next(first) for _ in range(4)]
    late = make()
    late.load_state_dict({"position": 30})
    assert torch.equal(next(late).rows.tokens, batches[3].rows.tokens)
    parts = [next(make(rank=rank, world_size=2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([p.labels for p in parts]), batches[0].labels)
    numbers = [number for index, _ in first.once(batch=16) for number in index]
    assert sorted(numbers) == list(range(50))
    for index, batch in first.once(batch=16):
        assert (batch.labels == torch.tensor([i % 3 for i in index])).all()
        assert (batch.rows.tokens[:, 1] == torch.tensor([5 + i for i in index])).all()


def test_what_cannot_be():
    learnt = tokenizers.train("wordpiece", ["a b c"], vocab_size=40, special_tokens=SPECIAL_TOKENS)
    assert SpecialTokens.of(learnt, 24).special == FRAME.special
    with pytest.raises(BadInput, match="length must be at least 5"):
        SpecialTokens.of(learnt, 4)
    with pytest.raises(BadInput, match=r"no \[CLS\]"):
        SpecialTokens.of(
            tokenizers.train("characters", ["abc"], vocab_size=40, special_tokens=("[PAD]", "[UNK]")), 24
        )
    with pytest.raises(BadInput, match="no two tokens in a row"):
        MLMBatches([[7], []], 4, FRAME, SIZE, seed=0)
    with pytest.raises(BadInput, match="between 0 and 1, not 1"):
        stream(hidden=1.0)
    with pytest.raises(BadInput, match="no sentences"):
        SentenceBatches([], [], 4, FRAME, seed=0)
