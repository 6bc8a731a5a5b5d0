"""Lanes of a text: each is read on where it stood, and all of the text is read."""

import pytest
import torch

from torchstone.data.text.bptt_batches import BPTTBatches
from torchstone.errors import BadInput

IDS = torch.arange(1003)


def test_every_lane_goes_on_where_it_stood():
    stream = BPTTBatches(IDS, 7, 4, seed=0)
    assert stream.lane == 250
    end, read = None, []
    for _ in range(3 * stream.windows):
        x, y, fresh = next(stream)
        assert torch.equal(y, x + 1)
        if fresh:
            read = [x]
            assert torch.equal(x[1:, 0], x[:-1, 0] + 250), "lanes are neighbours"
        else:
            assert torch.equal(x[:, 0], end + 1)
            read.append(x)
        end = x[:, -1]
        if sum(each.shape[1] for each in read) == stream.lane:
            whole = torch.cat(read, 1).flatten()
            assert torch.equal(whole, torch.arange(1000) + whole[0]), "nothing twice, nothing left"
    assert [next(stream).fresh for _ in range(2)] == [True, False]


def test_lanes_begin_at_every_place_that_they_can():
    stream = BPTTBatches(IDS, 250, 4, seed=0)
    begins = {int(next(stream).x[0, 0]) for _ in range(40)}
    assert begins == {0, 1, 2}


def test_position_is_all_there_is_to_resume():
    a, b = BPTTBatches(IDS, 9, 4, seed=5), BPTTBatches(IDS, 9, 4, seed=5)
    for _ in range(43):
        next(a)
    b.load_state_dict(a.state_dict())
    for _ in range(30):
        for one, other in zip(next(a), next(b), strict=True):
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_processes_share_the_lanes():
    whole = BPTTBatches(IDS, 8, 6, seed=3)
    shares = [BPTTBatches(IDS, 8, 6, seed=3, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(30):
        assert torch.equal(next(whole).x, torch.cat([next(s).x for s in shares]))


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="4 tokens, too few for 4 lanes"):
        BPTTBatches(torch.arange(4), 2, 4, seed=0)
    assert next(BPTTBatches(torch.arange(5), 2, 4, seed=0)).x.shape == (4, 1)
    with pytest.raises(BadInput, match="cannot be shared by 2"):
        BPTTBatches(IDS, 16, 5, seed=0, world_size=2)
    with pytest.raises(BadInput, match="at least 1 token"):
        BPTTBatches(IDS, 0, 4, seed=0)
