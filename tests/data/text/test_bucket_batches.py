"""Batches of sequences of like length: nothing lost, little padding, and resumable from a number."""

import itertools

import pytest
import torch

from torchstone.data.text.bucket_batches import BucketBatches, PackedSequences
from torchstone.errors import BadInput


def ragged(count=200, seed=0):
    """Sequences that begin with their own number, so that each can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 30, (count,), generator=generator).tolist()
    return [[i + 1] + [7] * (length - 1) for i, length in enumerate(lengths)]


def buckets(tokens=100, **settings):
    pairs = PackedSequences(ragged(seed=0)), PackedSequences(ragged(seed=1))
    return BucketBatches(*pairs, tokens, **{"pad": 0, "seed": 3} | settings)


def test_ragged_rows_come_back_padded():
    sequences = ragged()
    rows = torch.tensor([5, 0, 199, 5])
    padded = PackedSequences(sequences).pad_rows(rows, 0)
    longest = max(len(sequences[i]) for i in rows)
    assert padded.shape == (4, longest)
    for row, i in zip(padded.tolist(), rows.tolist(), strict=True):
        assert row == sequences[i] + [0] * (longest - len(sequences[i]))


def test_an_epoch_has_every_pair_once_within_the_budget():
    stream, orders = buckets(), []
    sources, targets = ragged(seed=0), ragged(seed=1)
    for _ in range(2):
        seen, real, padded = [], 0, 0
        for source, target in itertools.islice(stream, len(stream.cuts)):
            assert target.numel() <= 100
            assert torch.equal(source[:, 0], target[:, 0])  # partners stay partners
            for a, b in zip(source.tolist(), target.tolist(), strict=True):
                number = a[0] - 1
                assert [x for x in a if x] == sources[number]
                assert [x for x in b if x] == targets[number]
                seen.append(number)
            real, padded = real + int((target != 0).sum()), padded + target.numel()
        assert sorted(seen) == list(range(200))
        orders.append(seen)
    print(f"{len(stream.cuts)} batches; {1 - real / padded:.1%} of the target places are padding")
    assert orders[0] != orders[1]
    assert real / padded > 0.95


def test_same_seed_same_batches_from_any_place():
    stream, again, other = buckets(), buckets(), buckets(seed=4)
    batches = list(itertools.islice(stream, 2 * len(stream.cuts) + 5))
    again.load_state_dict({"position": len(stream.cuts) + 3})
    for expected, found in zip(batches[len(stream.cuts) + 3 :], again, strict=False):
        assert all(map(torch.equal, expected, found))
    assert stream.state_dict() == {"position": len(batches)}
    first = next(other)
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, batches[0], strict=True))  # fmt: skip


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch(world):
    shares = [buckets(rank=rank, world_size=world) for rank in range(world)]
    whole = buckets(world_size=1)
    whole.cuts = shares[0].cuts  # with more processes a batch has at least a row for each
    for _ in range(2 * len(whole.cuts)):
        parts = [next(share)[0][:, 0].tolist() for share in shares]
        assert sorted(itertools.chain(*parts)) == sorted(next(whole)[0][:, 0].tolist())
        assert all(parts)


def test_sizes_that_cannot_be():
    with pytest.raises(BadInput, match=r"longest sentence \(29 tokens\).*raise batch"):
        buckets(tokens=28)
    few = PackedSequences(ragged(2))
    with pytest.raises(BadInput, match="2 pairs are too few to make batches for 3 processes"):
        BucketBatches(few, few, 100, pad=0, seed=0, world_size=3)
