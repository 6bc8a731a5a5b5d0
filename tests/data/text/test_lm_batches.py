"""Windows of tokens: shifted by one, even over the text, the same after resuming and however many share them."""

import pytest
import torch

from torchstone.data.text.lm_batches import LMBatches
from torchstone.errors import BadInput

IDS = torch.arange(1000)


def test_y_is_x_one_token_later():
    stream = LMBatches(IDS, 16, 8, seed=0)
    for _ in range(20):
        x, y = next(stream)
        assert x.shape == y.shape == (8, 16)
        assert x.dtype == torch.int64
        assert torch.equal(y, x + 1)
        assert torch.equal(x[:, 1:], x[:, :-1] + 1)


def test_every_place_is_reached_the_last_token_too():
    stream = LMBatches(torch.arange(20), 4, 16, seed=0)
    drawn = [next(stream) for _ in range(40)]
    begins = torch.cat([x[:, 0] for x, _ in drawn])
    assert sorted(set(begins.tolist())) == list(range(16))
    assert max(int(y.max()) for _, y in drawn) == 19
    counts = torch.bincount(begins)
    print(counts)
    assert counts.min() > 20  # 40 expected


def test_seed_and_position_decide():
    a, b, c = LMBatches(IDS, 8, 4, seed=1), LMBatches(IDS, 8, 4, seed=1), LMBatches(IDS, 8, 4, seed=2)
    firsts = [torch.equal(next(a)[0], next(b)[0]) for _ in range(5)]
    assert all(firsts)
    assert not torch.equal(next(a)[0], next(c)[0])
    resumed = LMBatches(IDS, 8, 4, seed=1)
    resumed.load_state_dict(a.state_dict())
    assert torch.equal(next(resumed)[0], next(a)[0])
    assert resumed.state_dict() == {"position": 28}


def test_processes_share_what_one_would_have():
    whole = LMBatches(IDS, 8, 6, seed=3)
    shares = [LMBatches(IDS, 8, 6, seed=3, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(4):
        assert torch.equal(next(whole)[0], torch.cat([next(s)[0] for s in shares]))


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="16 tokens, too few for windows of 16"):
        LMBatches(torch.arange(16), 16, 4, seed=0)
    assert next(LMBatches(torch.arange(17), 16, 4, seed=0))[1][0, -1] == 16
    with pytest.raises(BadInput, match="cannot be shared by 2"):
        LMBatches(IDS, 16, 5, seed=0, world_size=2)
