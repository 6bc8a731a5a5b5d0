"""Memory problems: as in their papers, and the losses of the baselines."""

import math

import pytest
import torch
import torch.nn.functional as F

from torchstone.data.synthetic.memory_problems import ADDING_BASELINE, MemoryProblems, memoryless_loss
from torchstone.errors import BadInput


def test_adding_problem():
    x, y = next(MemoryProblems("adding", 100, 5000, seed=0))
    assert x.shape == (5000, 100, 2)
    numbers, marks = x.unbind(-1)
    assert set(marks.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(marks[:, :50].sum(1), torch.ones(5000))
    assert torch.equal(marks[:, 50:].sum(1), torch.ones(5000))
    for row in range(50):
        a, b = numbers[row][marks[row].bool()]
        assert y[row, 0] == a + b
    guess = F.mse_loss(torch.ones_like(y), y).item()
    print(f"always 1: {guess:.4f}, in theory {ADDING_BASELINE:.4f}")
    assert abs(guess - ADDING_BASELINE) < 0.01
    assert marks[:, :50].mean(0).min() > 0.01  # every place is marked, 0.02 on average


def test_copying_task():
    x, y = next(MemoryProblems("copy", 100, 400, seed=0))
    assert torch.equal(x.sum(-1), torch.ones(400, 120)), "one-hot"
    x = x.argmax(-1)
    assert x.shape == y.shape == (400, 120)
    assert torch.equal(y[:, 110:], x[:, :10])
    assert not y[:, :110].any()
    assert x[:, :10].unique().tolist() == [*range(1, 9)]
    signs = (x == 9).nonzero()
    assert torch.equal(signs[:, 1], torch.full((400,), 109)), "ten symbols are due right after it"
    assert not x[:, 110:].any()
    assert not x[:, 10:109].any()


def test_memoryless_loss():
    """Blanks for certain, then each of the eight symbols alike."""
    assert abs(memoryless_loss(100) - 0.1733) < 5e-5  # TARGETS: T = 100
    _, y = next(MemoryProblems("copy", 100, 50, seed=0))
    logits = torch.full((50, 120, 9), -50.0)
    logits[:, :110, 0] = 50.0
    logits[:, 110:, 1:] = 0.0
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
    assert abs(loss - memoryless_loss(100)) < 1e-6
    assert abs(memoryless_loss(1000) - 10 * math.log(8) / 1020) < 1e-12


@pytest.mark.parametrize("kind", ["adding", "copy"])
def test_memory_problems_resume_and_share(kind):
    a, b, other = (MemoryProblems(kind, 20, 6, seed=seed) for seed in (1, 1, 2))
    for _ in range(3):
        next(a)
    b.load_state_dict(a.state_dict())
    shares = [MemoryProblems(kind, 20, 6, seed=1, rank=rank, world_size=2) for rank in range(2)]
    for share in shares:
        share.load_state_dict(a.state_dict())
    x, y = next(a)
    for one, two in zip(next(b), (x, y), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(torch.cat([next(share)[0] for share in shares]), x)
    assert not torch.equal(next(other)[0], x)
    assert not torch.equal(next(a)[0], x)


def test_memory_problems_reject_invalid_sizes():
    with pytest.raises(BadInput, match="nothing to remember"):
        MemoryProblems("adding", 1, 4, seed=0)
    with pytest.raises(BadInput, match="cannot be shared by 2"):
        MemoryProblems("copy", 10, 5, seed=0, world_size=2)
