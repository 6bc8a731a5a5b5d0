"""BPTT batches: each lane is continuous, and all of the text is read."""

import pytest
import torch

from torchstone.data.text.bptt_batches import BPTTBatches
from torchstone.errors import BadInput

IDS = torch.arange(1003)


def test_bptt_batches_lanes_are_continuous():
    stream = BPTTBatches(IDS, 7, 4, seed=0)
    assert stream.lane_length == 250
    end, read = None, []
    for _ in range(3 * stream.windows):
        x, y, reset = next(stream)
        assert torch.equal(y, x + 1)
        if reset:
            read = [x]
            assert torch.equal(x[1:, 0], x[:-1, 0] + 250), "lanes are neighbours"
        else:
            assert torch.equal(x[:, 0], end + 1)
            read.append(x)
        end = x[:, -1]
        if sum(each.shape[1] for each in read) == stream.lane_length:
            whole = torch.cat(read, 1).flatten()
            assert torch.equal(whole, torch.arange(1000) + whole[0]), "nothing twice, nothing left"
    assert [next(stream).reset for _ in range(2)] == [True, False]


def test_bptt_batches_offsets_vary():
    stream = BPTTBatches(IDS, 250, 4, seed=0)
    begins = {int(next(stream).x[0, 0]) for _ in range(40)}
    assert begins == {0, 1, 2}


def test_bptt_batches_resume_from_position():
    a, b = BPTTBatches(IDS, 9, 4, seed=5), BPTTBatches(IDS, 9, 4, seed=5)
    for _ in range(43):
        next(a)
    b.load_state_dict(a.state_dict())
    for _ in range(30):
        for one, other in zip(next(a), next(b), strict=True):
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_bptt_batches_share_lanes():
    whole = BPTTBatches(IDS, 8, 6, seed=3)
    shares = [BPTTBatches(IDS, 8, 6, seed=3, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(30):
        assert torch.equal(next(whole).x, torch.cat([next(s).x for s in shares]))


def test_bptt_batches_reject_invalid_sizes():
    with pytest.raises(BadInput, match="4 tokens, too few for 4 lanes"):
        BPTTBatches(torch.arange(4), 2, 4, seed=0)
    assert next(BPTTBatches(torch.arange(5), 2, 4, seed=0)).x.shape == (4, 1)
    with pytest.raises(BadInput, match="cannot be shared by 2"):
        BPTTBatches(IDS, 16, 5, seed=0, world_size=2)
    with pytest.raises(BadInput, match="at least 1 token"):
        BPTTBatches(IDS, 0, 4, seed=0)
