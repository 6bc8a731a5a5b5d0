"""CTC against its definition, summed over every path, and against torch's own."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from torchstone.errors import BadInput
from torchstone.parts.audio.ctc import greedy_decode, ctc_loss, prefix_beam_search
from torchstone.parts.metrics.edit_distance import edit_distance


def collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """B: repetitions out, then blanks."""
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def every_labelling(logs: torch.Tensor, blank: int = 0) -> dict[tuple[int, ...], torch.Tensor]:
    """p(l|x) of each labelling l, by adding up all paths; differentiable."""
    time, classes = logs.shape
    found: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for path in itertools.product(range(classes), repeat=time):
        log = sum((logs[t, k] for t, k in enumerate(path)), start=torch.zeros((), dtype=logs.dtype))
        found.setdefault(collapsed(path, blank), []).append(log)
    return {labels: torch.stack(each).exp().sum() for labels, each in found.items()}


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def one(logs, labels, blank=0, **how):
    """The loss of a single row."""
    targets = torch.tensor([labels], dtype=torch.int64).view(1, -1)
    return ctc_loss(
        logs[None], targets, torch.tensor([len(logs)]), torch.tensor([len(labels)]), blank=blank,
        **how,
    )[0]  # fmt: skip


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 6])
def test_every_labelling_is_as_likely_as_its_paths(time, blank):
    u = drawn(time, 3)
    found = every_labelling(u.log_softmax(1), blank)
    assert sum(found.values()).item() == pytest.approx(1.0)
    worst = 0.0
    for labels, chance in found.items():
        (wanted,) = torch.autograd.grad(-chance.log(), u, retain_graph=True)
        loss = one(u.log_softmax(1), labels, blank)
        (gradient,) = torch.autograd.grad(loss, u)
        torch.testing.assert_close(loss, -chance.log(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)
        worst = max(worst, float((gradient - wanted).abs().max()))
    print(f"{time} moments: {len(found)} labellings of {3**time} paths, gradients within {worst:.1g}")
    assert () in found
    assert time < 3 or (1, 1) in found or blank == 1


def test_the_gradient_is_right_before_the_softmax_too():
    logs = drawn(5, 3)  # any numbers: not normalised
    assert torch.autograd.gradcheck(lambda x: one(x, [1, 1]), logs)


LABELS = [[3, 3, 1], [], [1, 2, 1, 2, 1], [2], [4, 4, 4, 4]]


@pytest.mark.parametrize("blank", [0, 5])
def test_beside_torch_in_a_batch(blank):
    labels = [[k % 5 + (blank == 0) for k in row] for row in LABELS]
    u = drawn(len(labels), 40, 6)
    lengths, counts = torch.tensor([40, 31, 12, 1, 7]), torch.tensor([len(row) for row in labels])
    targets = torch.full((len(labels), 6), -100)
    for row, each in zip(targets, labels, strict=True):
        row[: len(each)] = torch.tensor(each, dtype=torch.int64)
    outer = torch.rand(len(labels), dtype=torch.float64)
    results = []
    for which in ("ours", "theirs"):
        logs = u.log_softmax(2)
        if which == "ours":
            loss = ctc_loss(logs, targets, lengths, counts, blank=blank)
        else:
            loss = F.ctc_loss(logs.transpose(0, 1), targets.clamp(min=0), lengths, counts, blank, "none")
        (gradient,) = torch.autograd.grad((loss * outer).sum(), u)
        results.append((loss.detach(), gradient))
    (loss, gradient), (loss_, gradient_) = results
    print(f"losses {loss.tolist()}; furthest apart {(gradient - gradient_).abs().max():.2g}")
    torch.testing.assert_close(loss, loss_, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, gradient_, rtol=1e-10, atol=1e-12)
    assert gradient.abs().sum((1, 2)).gt(0).all()
    assert not gradient[2, 12:].any()  # what is after a row's end is nothing to it


def test_long_and_in_single_precision():
    torch.manual_seed(1)
    u = torch.randn(3, 400, 30, requires_grad=True)
    targets = torch.randint(1, 30, (3, 90))
    lengths, counts = torch.tensor([400, 390, 300]), torch.tensor([90, 80, 60])
    logs = u.log_softmax(2)
    ours = ctc_loss(logs, targets, lengths, counts)
    (gradient,) = torch.autograd.grad(ours.sum(), u, retain_graph=True)
    theirs = F.ctc_loss(logs.transpose(0, 1), targets, lengths, counts, reduction="none")
    (gradient_,) = torch.autograd.grad(theirs.sum(), u)
    print(f"{ours.tolist()} and {theirs.tolist()}, {(gradient - gradient_).abs().max():.2g} apart")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradient, gradient_, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_infinite_or_nothing():
    u = drawn(2, 3, 4)
    targets = torch.tensor([[1, 1, 2], [1, 2, 3]])  # the first needs four moments
    args = (targets, torch.tensor([3, 3]), torch.tensor([3, 3]))
    plain = ctc_loss(u.log_softmax(2), *args)
    assert plain[0].item() == math.inf
    spared = ctc_loss(u.log_softmax(2), *args, zero_infinity=True)
    theirs = F.ctc_loss(u.log_softmax(2).transpose(0, 1), *args, reduction="none", zero_infinity=True)
    torch.testing.assert_close(spared, theirs)
    (gradient,) = torch.autograd.grad(spared.sum(), u)
    (gradient_,) = torch.autograd.grad(theirs.sum(), u)
    torch.testing.assert_close(gradient, gradient_)
    assert not gradient[0].any()
    assert gradient[1].any()


def test_a_label_that_cannot_be_breaks_nothing():
    u = drawn(4, 3)
    barred = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64)
    logs = (u + barred).log_softmax(1)
    loss = one(logs, [1])
    (gradient,) = torch.autograd.grad(loss, u)
    chances = every_labelling(logs.detach())
    torch.testing.assert_close(loss, -chances[(1,)].log())
    assert gradient.isfinite().all()
    assert one(logs, [2]).item() == math.inf


@pytest.mark.parametrize(
    ("lengths", "counts", "targets", "said"),
    [
        ([6], [1], [[1]], "6 moments"),
        ([0], [1], [[1]], "lengths of 0"),
        ([5], [2], [[1]], "up to 2 labels"),
        ([5], [2], [[1, 0]], "which is the blank"),
    ],
)
def test_lengths_and_targets_that_cannot_be(lengths, counts, targets, said):
    with pytest.raises(BadInput, match=said):
        ctc_loss(drawn(1, 5, 3).log_softmax(2), *map(torch.tensor, (targets, lengths, counts)))


@pytest.mark.parametrize("blank", [0, 2])
def test_a_beam_wide_enough_finds_every_labelling(blank):
    for time in (1, 3, 5):
        logs = drawn(time, 3).detach().log_softmax(1)
        wanted = {labels: p.log().item() for labels, p in every_labelling(logs, blank).items()}
        found = dict(prefix_beam_search(logs, 10_000, blank=blank))
        possible = {labels: log for labels, log in found.items() if log > -math.inf}
        assert possible.keys() == wanted.keys()
        assert all(abs(possible[labels] - wanted[labels]) < 1e-12 for labels in wanted)
        best = max(wanted, key=wanted.__getitem__)
        assert next(iter(found)) == best
        print(f"{time} moments: {len(wanted)} labellings, best {best} at {wanted[best]:.4f}")


def test_the_best_labelling_need_not_be_the_best_path():
    # section 3.2's point: –– is the likeliest path (0.36), but a has three paths (0.64)
    logs = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy_decode(logs[None], torch.tensor([2])) == [[]]
    (labels, log), *_ = prefix_beam_search(logs, 2)
    assert labels == (1,)
    assert log == pytest.approx(math.log(0.64))


def test_a_narrow_beam_and_what_is_not_tried():
    torch.manual_seed(2)
    logs = (3 * torch.randn(12, 4)).log_softmax(1)
    wide, narrow = prefix_beam_search(logs, 500), prefix_beam_search(logs, 3)
    assert len(narrow) == 3
    assert narrow[0][1] <= wide[0][1] + 1e-6
    assert [log for _, log in wide] == sorted((log for _, log in wide), reverse=True)
    cut = prefix_beam_search(logs, 500, least=-3.0)
    print(f"{wide[0]}, with 3 beams {narrow[0]}, without the unlikely {cut[0]}")
    assert cut[0][0] == wide[0][0]
    assert cut[0][1] < wide[0][1]
    with pytest.raises(BadInput, match="beams must be at least 1"):
        prefix_beam_search(logs, 0)


def test_greedy_decoding_collapses_and_stops():
    path = [[0, 1, 1, 0, 1, 2, 2, 0], [3, 3, 0, 3, 0, 1, 1, 1]]
    logs = F.one_hot(torch.tensor(path), 4).float().log()
    assert greedy_decode(logs, torch.tensor([8, 5])) == [[1, 1, 2], [3, 3]]
    assert greedy_decode(logs, torch.tensor([8, 8]), blank=3) == [[0, 1, 0, 1, 2, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("said", "meant", "least"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2),
     ("abab", "baba", 2)],
)  # fmt: skip
def test_edits(said, meant, least):
    assert edit_distance(said, meant) == edit_distance(meant, said) == least
    assert edit_distance(list(said), list(said)) == 0
