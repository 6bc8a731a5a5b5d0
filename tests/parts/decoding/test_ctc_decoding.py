"""CTC decoding compared with its definition, the sum over all paths."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from torchstone.errors import BadInput
from torchstone.parts.decoding.ctc_decoding import greedy_decode, prefix_beam_search


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """B: removes repetitions, then blanks."""
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def labeling_probabilities(log_probs: torch.Tensor, blank: int = 0) -> dict[tuple[int, ...], torch.Tensor]:
    """p(l|x) of each labeling l, as a sum over all paths."""
    time, classes = log_probs.shape
    found: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for path in itertools.product(range(classes), repeat=time):
        log = sum((log_probs[t, k] for t, k in enumerate(path)), start=torch.zeros((), dtype=log_probs.dtype))
        found.setdefault(collapse(path, blank), []).append(log)
    return {labels: torch.stack(each).exp().sum() for labels, each in found.items()}


@pytest.mark.parametrize("blank", [0, 2])
def test_prefix_beam_search_finds_every_labeling(blank):
    for time in (1, 3, 5):
        log_probs = torch.randn(time, 3, dtype=torch.float64).log_softmax(1)
        expected = {labels: p.log().item() for labels, p in labeling_probabilities(log_probs, blank).items()}
        found = dict(prefix_beam_search(log_probs, 10_000, blank=blank))
        possible = {labels: log for labels, log in found.items() if log > -math.inf}
        assert possible.keys() == expected.keys()
        assert all(abs(possible[labels] - expected[labels]) < 1e-12 for labels in expected)
        best = max(expected, key=expected.__getitem__)
        assert next(iter(found)) == best
        print(f"{time} time steps: {len(expected)} labelings, best {best} at {expected[best]:.4f}")


def test_prefix_beam_search_beats_best_path():
    # section 3.2's point: –– is the likeliest path (0.36), but a has three paths (0.64)
    log_probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy_decode(log_probs[None], torch.tensor([2])) == [[]]
    (labels, log), *_ = prefix_beam_search(log_probs, 2)
    assert labels == (1,)
    assert log == pytest.approx(math.log(0.64))


def test_prefix_beam_search_prunes():
    torch.manual_seed(2)
    log_probs = (3 * torch.randn(12, 4)).log_softmax(1)
    wide, narrow = prefix_beam_search(log_probs, 500), prefix_beam_search(log_probs, 3)
    assert len(narrow) == 3
    assert narrow[0][1] <= wide[0][1] + 1e-6
    assert [log for _, log in wide] == sorted((log for _, log in wide), reverse=True)
    cut = prefix_beam_search(log_probs, 500, min_log_prob=-3.0)
    print(f"{wide[0]}, with 3 beams {narrow[0]}, without the unlikely {cut[0]}")
    assert cut[0][0] == wide[0][0]
    assert cut[0][1] < wide[0][1]
    with pytest.raises(BadInput, match="beam_size must be at least 1"):
        prefix_beam_search(log_probs, 0)


def test_greedy_decode_collapses_paths():
    path = [[0, 1, 1, 0, 1, 2, 2, 0], [3, 3, 0, 3, 0, 1, 1, 1]]
    log_probs = F.one_hot(torch.tensor(path), 4).float().log()
    assert greedy_decode(log_probs, torch.tensor([8, 5])) == [[1, 1, 2], [3, 3]]
    assert greedy_decode(log_probs, torch.tensor([8, 8]), blank=3) == [[0, 1, 0, 1, 2, 0], [0, 0, 1]]
