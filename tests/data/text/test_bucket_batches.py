"""Batches of sequences of similar length: nothing lost, little padding, and resumable from a number."""

import itertools

import pytest
import torch

from torchstone.data.text.bucket_batches import BucketBatches, PackedSequences
from torchstone.errors import BadInput


def sequences(count=200, seed=0):
    """Sequences that begin with their own number, so that each is unique."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 30, (count,), generator=generator).tolist()
    return [[i + 1] + [7] * (length - 1) for i, length in enumerate(lengths)]


def buckets(tokens=100, **settings):
    pairs = PackedSequences(sequences(seed=0)), PackedSequences(sequences(seed=1))
    return BucketBatches(*pairs, tokens, **{"pad": 0, "seed": 3} | settings)


def test_packed_sequences_pad_rows():
    originals = sequences()
    rows = torch.tensor([5, 0, 199, 5])
    padded = PackedSequences(originals).pad_rows(rows, 0)
    longest = max(len(originals[i]) for i in rows)
    assert padded.shape == (4, longest)
    for row, i in zip(padded.tolist(), rows.tolist(), strict=True):
        assert row == originals[i] + [0] * (longest - len(originals[i]))


def test_bucket_batches_epoch_has_each_pair_once_within_the_budget():
    stream, orders = buckets(), []
    sources, targets = sequences(seed=0), sequences(seed=1)
    for _ in range(2):
        numbers, tokens, padded = [], 0, 0
        for source, target in itertools.islice(stream, len(stream.cuts)):
            assert target.numel() <= 100
            assert torch.equal(source[:, 0], target[:, 0])  # partners stay partners
            for a, b in zip(source.tolist(), target.tolist(), strict=True):
                number = a[0] - 1
                assert [x for x in a if x] == sources[number]
                assert [x for x in b if x] == targets[number]
                numbers.append(number)
            tokens, padded = tokens + int((target != 0).sum()), padded + target.numel()
        assert sorted(numbers) == list(range(200))
        orders.append(numbers)
    print(f"{len(stream.cuts)} batches; {1 - tokens / padded:.1%} of the target positions are padding")
    assert orders[0] != orders[1]
    assert tokens / padded > 0.95


def test_bucket_batches_resume_at_any_position():
    stream, again, other = buckets(), buckets(), buckets(seed=4)
    batches = list(itertools.islice(stream, 2 * len(stream.cuts) + 5))
    again.load_state_dict({"position": len(stream.cuts) + 3})
    for expected, batch in zip(batches[len(stream.cuts) + 3 :], again, strict=False):
        assert all(map(torch.equal, expected, batch))
    assert stream.state_dict() == {"position": len(batches)}
    first = next(other)
    assert not all(torch.equal(a, b) for a, b in zip(first, batches[0], strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
def test_bucket_batches_are_shared_by_processes(world_size):
    shares = [buckets(rank=rank, world_size=world_size) for rank in range(world_size)]
    single = buckets(world_size=1)
    single.cuts = shares[0].cuts  # with more processes a batch has at least a row for each
    for _ in range(2 * len(single.cuts)):
        parts = [next(share)[0][:, 0].tolist() for share in shares]
        assert sorted(itertools.chain(*parts)) == sorted(next(single)[0][:, 0].tolist())
        assert all(parts)


def test_bucket_batches_reject_impossible_sizes():
    with pytest.raises(BadInput, match=r"longest sentence \(29 tokens\).*raise batch_size"):
        buckets(tokens=28)
    few = PackedSequences(sequences(2))
    with pytest.raises(BadInput, match="2 pairs are too few to make batches for 3 processes"):
        BucketBatches(few, few, 100, pad=0, seed=0, world_size=3)
