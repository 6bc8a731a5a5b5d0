"""Random windows: shifted by one, uniform over the text, the same after resuming and when shared."""

import pytest
import torch

from torchstone.data.text.lm_batches import LMBatches
from torchstone.errors import BadInput

IDS = torch.arange(1000)


def test_lm_batches_y_is_x_one_token_later():
    stream = LMBatches(IDS, 16, 8, seed=0)
    for _ in range(20):
        x, y = next(stream)
        assert x.shape == y.shape == (8, 16)
        assert x.dtype == torch.int64
        assert torch.equal(y, x + 1)
        assert torch.equal(x[:, 1:], x[:, :-1] + 1)


def test_lm_batches_reach_every_position():
    stream = LMBatches(torch.arange(20), 4, 16, seed=0)
    batches = [next(stream) for _ in range(40)]
    starts = torch.cat([x[:, 0] for x, _ in batches])
    assert sorted(set(starts.tolist())) == list(range(16))
    assert max(int(y.max()) for _, y in batches) == 19
    counts = torch.bincount(starts)
    print(counts)
    assert counts.min() > 20  # 40 expected


def test_lm_batches_depend_on_seed_and_position():
    a, b, c = LMBatches(IDS, 8, 4, seed=1), LMBatches(IDS, 8, 4, seed=1), LMBatches(IDS, 8, 4, seed=2)
    firsts = [torch.equal(next(a)[0], next(b)[0]) for _ in range(5)]
    assert all(firsts)
    assert not torch.equal(next(a)[0], next(c)[0])
    resumed = LMBatches(IDS, 8, 4, seed=1)
    resumed.load_state_dict(a.state_dict())
    assert torch.equal(next(resumed)[0], next(a)[0])
    assert resumed.state_dict() == {"position": 28}


def test_lm_batches_are_shared_by_processes():
    single = LMBatches(IDS, 8, 6, seed=3)
    shares = [LMBatches(IDS, 8, 6, seed=3, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(4):
        assert torch.equal(next(single)[0], torch.cat([next(s)[0] for s in shares]))


def test_lm_batches_reject_short_text_and_uneven_batch():
    with pytest.raises(BadInput, match="16 tokens, too few for windows of 16"):
        LMBatches(torch.arange(16), 16, 4, seed=0)
    assert next(LMBatches(torch.arange(17), 16, 4, seed=0))[1][0, -1] == 16
    with pytest.raises(BadInput, match="cannot be shared by 2"):
        LMBatches(IDS, 16, 5, seed=0, world_size=2)
