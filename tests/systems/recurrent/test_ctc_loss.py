"""The CTC loss compared with its definition, the sum over all paths, and with torch's own."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from torchstone.errors import BadInput
from torchstone.systems.recurrent.ctc import ctc_loss


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """B: removes repetitions, then blanks."""
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def labeling_probabilities(log_probs: torch.Tensor, blank: int = 0) -> dict[tuple[int, ...], torch.Tensor]:
    """p(l|x) of each labeling l, as a sum over all paths; differentiable."""
    time, classes = log_probs.shape
    found: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for path in itertools.product(range(classes), repeat=time):
        log = sum((log_probs[t, k] for t, k in enumerate(path)), start=torch.zeros((), dtype=log_probs.dtype))
        found.setdefault(collapse(path, blank), []).append(log)
    return {labels: torch.stack(each).exp().sum() for labels, each in found.items()}


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def row_loss(log_probs, labels, blank=0, **options):
    """The loss of a single row."""
    targets = torch.tensor([labels], dtype=torch.int64).view(1, -1)
    return ctc_loss(
        log_probs[None], targets, torch.tensor([len(log_probs)]), torch.tensor([len(labels)]), blank=blank,
        **options,
    )[0]  # fmt: skip


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 5, 6])
def test_ctc_loss_sums_all_paths(time, blank):
    u = randn(time, 3)
    found = labeling_probabilities(u.log_softmax(1), blank)
    assert sum(found.values()).item() == pytest.approx(1.0)
    worst = 0.0
    for labels, probability in found.items():
        (expected,) = torch.autograd.grad(-probability.log(), u, retain_graph=True)
        loss = row_loss(u.log_softmax(1), labels, blank)
        (gradient,) = torch.autograd.grad(loss, u)
        torch.testing.assert_close(loss, -probability.log(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
        worst = max(worst, float((gradient - expected).abs().max()))
    print(f"{time} time steps: {len(found)} labelings of {3**time} paths, gradients within {worst:.1g}")
    assert () in found
    assert time < 3 or (1, 1) in found or blank == 1


def test_ctc_loss_gradcheck_on_unnormalized_inputs():
    log_probs = randn(5, 3)  # any numbers: not normalised
    assert torch.autograd.gradcheck(lambda x: row_loss(x, [1, 1]), log_probs)


LABELS = [[3, 3, 1], [], [1, 2, 1, 2, 1], [2], [4, 4, 4, 4]]


@pytest.mark.parametrize("blank", [0, 5])
def test_ctc_loss_matches_torch_in_batch(blank):
    labels = [[k % 5 + (blank == 0) for k in row] for row in LABELS]
    u = randn(len(labels), 40, 6)
    lengths, counts = torch.tensor([40, 31, 12, 1, 7]), torch.tensor([len(row) for row in labels])
    targets = torch.full((len(labels), 6), -100)
    for row, each in zip(targets, labels, strict=True):
        row[: len(each)] = torch.tensor(each, dtype=torch.int64)
    outer = torch.rand(len(labels), dtype=torch.float64)
    results = []
    for which in ("ours", "theirs"):
        log_probs = u.log_softmax(2)
        if which == "ours":
            loss = ctc_loss(log_probs, targets, lengths, counts, blank=blank)
        else:
            loss = F.ctc_loss(log_probs.transpose(0, 1), targets.clamp(min=0), lengths, counts, blank, "none")
        (gradient,) = torch.autograd.grad((loss * outer).sum(), u)
        results.append((loss.detach(), gradient))
    (loss, gradient), (loss_, gradient_) = results
    print(f"losses {loss.tolist()}; largest difference {(gradient - gradient_).abs().max():.2g}")
    torch.testing.assert_close(loss, loss_, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, gradient_, rtol=1e-10, atol=1e-12)
    assert gradient.abs().sum((1, 2)).gt(0).all()
    assert not gradient[2, 12:].any()  # what is after a row's end is nothing to it


def test_ctc_loss_matches_torch_in_float32():
    torch.manual_seed(1)
    u = torch.randn(3, 400, 30, requires_grad=True)
    targets = torch.randint(1, 30, (3, 90))
    lengths, counts = torch.tensor([400, 390, 300]), torch.tensor([90, 80, 60])
    log_probs = u.log_softmax(2)
    ours = ctc_loss(log_probs, targets, lengths, counts)
    (gradient,) = torch.autograd.grad(ours.sum(), u, retain_graph=True)
    theirs = F.ctc_loss(log_probs.transpose(0, 1), targets, lengths, counts, reduction="none")
    (gradient_,) = torch.autograd.grad(theirs.sum(), u)
    print(f"{ours.tolist()} and {theirs.tolist()}, {(gradient - gradient_).abs().max():.2g} difference")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradient, gradient_, rtol=1e-3, atol=1e-4)


def test_ctc_loss_of_impossible_labeling_is_infinite_or_zero():
    u = randn(2, 3, 4)
    targets = torch.tensor([[1, 1, 2], [1, 2, 3]])  # the first needs four time steps
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


def test_ctc_loss_with_zero_probability_label():
    u = randn(4, 3)
    barred = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64)
    log_probs = (u + barred).log_softmax(1)
    loss = row_loss(log_probs, [1])
    (gradient,) = torch.autograd.grad(loss, u)
    probabilities = labeling_probabilities(log_probs.detach())
    torch.testing.assert_close(loss, -probabilities[(1,)].log())
    assert gradient.isfinite().all()
    assert row_loss(log_probs, [2]).item() == math.inf


@pytest.mark.parametrize(
    ("lengths", "counts", "targets", "message"),
    [
        ([6], [1], [[1]], "6 time steps"),
        ([0], [1], [[1]], "lengths of 0"),
        ([5], [2], [[1]], "up to 2 labels"),
        ([5], [2], [[1, 0]], "which is the blank"),
    ],
)
def test_ctc_loss_rejects_invalid_lengths(lengths, counts, targets, message):
    with pytest.raises(BadInput, match=message):
        ctc_loss(randn(1, 5, 3).log_softmax(2), *map(torch.tensor, (targets, lengths, counts)))
