"""Masked-LM batches: the paper's masking, seeds, sharing between processes, and resuming."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from torchstone.data.text.mlm_batches import MLMBatches
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SpecialTokens
from torchstone.errors import BadInput

VOCAB_SIZE, MAX_LENGTH = 200, 24
SPECIAL = SpecialTokens(0, 2, 3, 4, frozenset(range(5)), MAX_LENGTH)


def documents(count=40, seed=0):
    """Each counts up from a number of its own, so that the next token is known."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(5, 150, (count,), generator=generator).tolist()
    lengths = torch.randint(2, 90, (count,), generator=generator).tolist()
    return [
        [5 + (a - 5 + i) % (VOCAB_SIZE - 5) for i in range(n)] for a, n in zip(starts, lengths, strict=True)
    ]


def stream(batch_size=32, **options):
    options = {"seed": 1, "next_sentence": False, **options}
    return MLMBatches(documents(), batch_size, SPECIAL, VOCAB_SIZE, **options)


def original_tokens(batch):
    """The tokens before masking."""
    is_target = batch.targets != IGNORE_INDEX
    before = batch.rows.tokens.gather(1, batch.positions)
    return batch.rows.tokens.scatter(1, batch.positions, torch.where(is_target, batch.targets, before))


def test_mlm_batches_mask_15_percent_as_80_10_10():
    batches, outcomes, masked, total = stream(batch_size=64), Counter(), 0, 0
    for _ in range(60):
        batch = next(batches)
        is_target = batch.targets != IGNORE_INDEX
        after = batch.rows.tokens.gather(1, batch.positions)[is_target]
        before = batch.targets[is_target]
        outcomes["mask"] += int((after == SPECIAL.mask).sum())
        outcomes["same"] += int((after == before).sum())
        outcomes["other"] += int(((after != before) & (after != SPECIAL.mask)).sum())
        assert not set(before.tolist()) & SPECIAL.ids
        masked += int(is_target.sum())
        words = batch.rows.mask.sum(1) - 2
        total += int(words.sum())
        # as many as 15 % of each row, to the nearest, and one at least
        expected = (words * 0.15).round().clamp(min=1)
        assert torch.equal(is_target.sum(1).float(), expected)
        # all other tokens are unchanged
        untouched = torch.ones_like(batch.rows.mask).scatter(1, batch.positions, False)
        assert torch.equal(original_tokens(batch)[untouched], batch.rows.tokens[untouched])
    shares = {name: count / masked for name, count in outcomes.items()}
    print(f"{masked} of {total} masked: {shares}")
    assert shares["mask"] == pytest.approx(0.8, abs=0.015)
    # one in 195 of the random ones is itself
    assert shares["same"] == pytest.approx(0.1 + 0.1 / 195, abs=0.012)
    assert masked / total == pytest.approx(0.15, abs=0.02)


def test_mlm_batches_rows_are_spans_of_documents():
    batches = stream()
    neighbors = {pair for document in documents() for pair in pairwise(document)}
    for _ in range(10):
        batch = next(batches)
        for row, mask in zip(original_tokens(batch).tolist(), batch.rows.mask, strict=True):
            words = row[1 : int(mask.sum()) - 1]
            assert row[0] == SPECIAL.cls
            assert row[len(words) + 1] == SPECIAL.sep
            assert set(row[len(words) + 2 :]) <= {SPECIAL.pad}
            assert all(pair in neighbors for pair in pairwise(words))


def test_mlm_batches_half_of_second_spans_are_random():
    batches, counts, continued = stream(next_sentence=True, batch_size=64), Counter(), Counter()
    for _ in range(20):
        batch = next(batches)
        assert batch.rows.tokens.shape[1] <= MAX_LENGTH
        for row, segments, is_random in zip(
            original_tokens(batch).tolist(), batch.rows.segments, batch.is_random_next.tolist(), strict=True
        ):
            counts[is_random] += 1
            first = row.index(SPECIAL.sep)
            second = row[first + 1 :][: row[first + 1 :].index(SPECIAL.sep)]
            assert segments[: first + 1].sum() == 0
            assert int(segments.sum()) == len(second) + 1
            continued[is_random] += second[0] == 5 + (row[first - 1] - 5 + 1) % (VOCAB_SIZE - 5)
    print(counts, continued)
    assert counts[1] / sum(counts.values()) == pytest.approx(0.5, abs=0.05)
    assert continued[0] == counts[0]
    assert continued[1] / counts[1] < 0.1


def test_mlm_batches_weights_give_mean_over_masked_tokens():
    for batch in (next(stream()), next(stream(batch_size=7, next_sentence=True))):
        losses = torch.rand(batch.targets.shape)
        is_target = batch.targets != IGNORE_INDEX
        by_rows = (losses * batch.weights).sum(1).mean()
        assert float(by_rows) == pytest.approx(float(losses[is_target].mean()), rel=1e-5)


def equal(a, b) -> bool:
    flat = [(*x.rows, *x[1:]) for x in (a, b)]
    return all(torch.equal(p, q) for p, q in zip(*flat, strict=True))


def test_mlm_batches_depend_on_seed_and_position_alone():
    first, again, other = stream(), stream(), stream(seed=2)
    batches = [next(first) for _ in range(5)]
    assert all(equal(batch, next(again)) for batch in batches)
    assert not equal(batches[0], next(other))
    late = stream()
    late.load_state_dict({"position": 3 * 32})
    assert equal(next(late), batches[3])
    assert late.state_dict() == {"position": 4 * 32}
    for count in (64, 512):
        a, b = (list(stream(seed=s).eval_batches(max_spans=count)) for s in (1, 2))
        assert all(equal(x, y) for x, y in zip(a, b, strict=True))


def test_mlm_batches_are_shared_by_processes():
    full = next(stream(next_sentence=True))
    parts = [next(stream(next_sentence=True, rank=rank, world_size=2)) for rank in (0, 1)]
    for field in ("positions", "targets", "weights", "is_random_next"):
        joined = torch.cat([getattr(part, field) for part in parts])
        assert torch.equal(joined, getattr(full, field))
    assert torch.equal(torch.cat([p.rows.tokens for p in parts]), full.rows.tokens)
    with pytest.raises(BadInput, match="32 cannot be shared by 3"):
        stream(world_size=3)


def test_mlm_batches_reject_empty_text_and_impossible_mask_prob():
    with pytest.raises(BadInput, match="no two tokens in a row"):
        MLMBatches([[7], []], 4, SPECIAL, VOCAB_SIZE, seed=0)
    with pytest.raises(BadInput, match="between 0 and 1, not 1"):
        stream(mask_prob=1.0)
