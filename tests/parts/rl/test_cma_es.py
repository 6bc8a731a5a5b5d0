"""CMA-ES: it minimizes, leaves NumPy's global generator alone, survives flat generations, and resumes to the bit."""

import math
import sys

import cma
import numpy as np
import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.rl.cma_es import CMAES, check_search


def ellipsoid(x):
    """Its minimum is at 1, and a dimension counts up to 30 times as much as another."""
    return ((x - 1).square() * torch.logspace(0, 1.5, x.shape[1])).sum(1)


def search(n=6, **options):
    return CMAES(torch.zeros(n), 0.5, 12, **{"seed": 3, **options})


def test_it_minimizes():
    one = search()
    for _ in range(60):
        one.tell(ellipsoid(one.ask()))
    print(one.generation, one.mean)
    assert one.generation == 60
    assert (one.mean - 1).abs().max() < 1e-2


def test_it_is_the_packages_search():
    """The same candidates as the package's own from the same seed."""
    state = np.random.get_state()
    np.random.seed(3)
    theirs = cma.CMAEvolutionStrategy(np.zeros(6), 0.5, {"popsize": 12, "verbose": -9, "seed": math.nan})
    rows = []
    for _ in range(5):
        xs = theirs.ask()
        theirs.tell(xs, ellipsoid(torch.tensor(np.stack(xs)).float()).double().tolist())
        rows.append(torch.tensor(np.stack(xs)).float())
    np.random.set_state(state)
    ours = search()
    for row in rows:
        x = ours.ask()
        assert torch.equal(x, row)
        ours.tell(ellipsoid(x))


@pytest.mark.parametrize("n", [6, 300])  # in 300 dimensions the package draws by itself
def test_numpys_global_generator_is_left_alone_and_does_not_matter(n):
    runs = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].copy(), np.random.get_state()[2]
        one = search(n)
        for _ in range(12):
            one.tell(one.ask().square().sum(1))
        assert (before[0] == np.random.get_state()[1]).all()
        assert before[1] == np.random.get_state()[2]
        runs.append(one.ask())
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], search(n, seed=4).ask())


def test_equal_losses_do_not_end_it():
    """A sparse return is flat at first, where the package would stop."""
    one = search()
    for _ in range(3):
        one.ask()
        one.tell(torch.zeros(12))
    assert "tolfun" in one.strategy.stop()
    for _ in range(60):
        one.tell(ellipsoid(one.ask()))
    assert (one.mean - 1).abs().max() < 1e-2


@pytest.mark.parametrize("is_diagonal", [False, True])
@pytest.mark.parametrize("n", [6, 300])
def test_resumed_it_goes_on_to_the_bit(n, is_diagonal, tmp_path):
    one = search(n, is_diagonal=is_diagonal)
    for number in range(14):
        x = one.ask()
        one.tell(torch.zeros(12) if number < 2 else x.square().sum(1) + x[:, 0])
        if number == 8:
            torch.save(one.state_dict(), tmp_path / "state.pt")
    np.random.seed(77)
    other = search(n, is_diagonal=is_diagonal)
    other.ask()  # what is asked before loading does not matter
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.generation == 9
    for _ in range(9, 14):
        x = other.ask()
        other.tell(x.square().sum(1) + x[:, 0])
    assert torch.equal(other.mean, one.mean)
    assert other.sigma == one.sigma
    assert torch.equal(other.ask(), one.ask())


def test_bad_searches_are_refused(monkeypatch):
    with pytest.raises(BadInput, match="at least 2 candidates, not 1"):
        CMAES(torch.zeros(3), 0.5, 1, seed=0)
    with pytest.raises(BadInput, match="positive sigma, not 0"):
        check_search(8, 0.0)
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(BadInput, match=r"pip install 'torchstone\[rl\]'"):
        search()
