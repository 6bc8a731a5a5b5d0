"""Span corruption: nothing is lost, spans are uniform, batches resume."""

import pytest
import torch

from torchstone.data.text.span_corruption import SpanCorruptionBatches, corrupt, random_spans, span_counts
from torchstone.errors import BadInput


def test_corrupt_puts_every_token_in_source_or_target():
    sentinels, end = torch.arange(100, 120), 99
    for length, noise_density, mean_span_length in (
        (40, 0.15, 3.0),
        (64, 0.5, 2.0),
        (20, 0.15, 3.0),
        (512, 0.15, 3.0),
    ):
        num_noise, spans = span_counts(length, noise_density, mean_span_length)
        if spans >= 20:
            sentinels = torch.arange(1000, 1100)
        texts = torch.arange(1, 1 + length).expand(8, length).contiguous() + 2000
        noise, number = random_spans(8, length, num_noise, spans, torch.Generator().manual_seed(0))
        source, target = corrupt(texts, noise, number, sentinels, end)
        for row in range(8):
            a, b = source[row].tolist(), target[row].tolist()
            words = [x for x in a + b if x > 2000]
            assert sorted(words) == texts[row].tolist()
            assert [x for x in a if x in sentinels] == sentinels[:spans].tolist()
            assert [x for x in b if x in sentinels] == sentinels[: spans + 1].tolist()
            assert a[-1] == b[-1] == end
            assert len([x for x in b if x > 2000]) == num_noise
            # in place of its sentinel, each span restores the text
            removed = {}
            for x in b[:-1]:
                if x in sentinels:
                    removed[x] = []
                else:
                    removed[list(removed)[-1]].append(x)
            restored = [y for x in a[:-1] for y in removed.get(x, [x])]
            assert restored == texts[row].tolist()
        print(length, num_noise, spans)


def test_random_spans_are_uniform_over_all_splits():
    noise, number = random_spans(4000, 40, 6, 2, torch.Generator().manual_seed(0))
    assert noise.sum(1).eq(6).all()
    assert not noise[:, 0].any(), "text comes first"
    assert noise[:, -1].all()
    first = torch.stack([(noise[i] & (number[i] == 1)).sum() for i in range(4000)])
    shares = torch.bincount(first, minlength=6)[1:6] / 4000
    print(shares)
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.03), "all cuts are equally likely"
    starts = (noise & (number == 1)).float().argmax(1)
    shares = torch.bincount(starts, minlength=34)[1:34] / 4000
    assert torch.allclose(shares, torch.full((33,), 1 / 33), atol=0.012)


def test_span_corruption_batches_resume_and_are_shared_by_processes():
    texts = torch.arange(30 * 40).view(30, 40) + 50
    settings = {"sentinels": torch.arange(3, 9), "end": 1, "seed": 5}
    one = SpanCorruptionBatches(texts, 8, **settings)
    batches = [next(one) for _ in range(6)]
    again = SpanCorruptionBatches(texts, 8, **settings)
    again.load_state_dict({"position": 3 * 8})
    assert all(torch.equal(a, b) for a, b in zip(next(again), batches[3], strict=True))
    halves = [next(SpanCorruptionBatches(texts, 8, **settings, rank=r, world_size=2)) for r in (0, 1)]
    joined = [torch.cat(sides) for sides in zip(*halves, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(joined, batches[0], strict=True))
    other = next(SpanCorruptionBatches(texts, 8, **{**settings, "seed": 6}))
    assert not torch.equal(other[0], batches[0][0])
    with pytest.raises(BadInput, match="need 3 sentinels, there are 2"):
        SpanCorruptionBatches(texts, 8, **{**settings, "sentinels": torch.arange(3, 5)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((40, 0.0, 3.0), "noise_density must be above 0"),
        ((40, 0.15, 0.5), "mean_span_length at least 1"),
        ((1, 0.15, 3.0), "too short to have a span"),
    ],
)
def test_span_counts_rejects_impossible_spans(arguments, message):
    with pytest.raises(BadInput, match=message):
        span_counts(*arguments)
