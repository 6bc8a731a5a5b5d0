"""The contrastive loss against a loop over pairs and torch's cross-entropy, with one positive and with several."""

import math

import torch
import torch.nn.functional as F

from torchstone.parts.contrastive_loss import contrastive_loss, symmetric_contrastive_loss


def by_loops(logits, positive):
    total = 0.0
    for row, belongs in zip(logits.tolist(), positive.tolist(), strict=True):
        normalizer = math.log(math.fsum(math.exp(each) for each in row))
        chosen = [value - normalizer for value, yes in zip(row, belongs, strict=True) if yes]
        total -= math.fsum(chosen) / len(chosen)
    return total / len(logits)


def example(rows=5, columns=7):
    torch.manual_seed(0)
    logits = 3 * torch.randn(rows, columns, dtype=torch.float64)
    positive = torch.rand(rows, columns) < 0.3
    positive[torch.arange(rows), torch.arange(rows)] = True
    return logits.requires_grad_(), positive


def test_contrastive_loss_is_the_mean_over_positives():
    logits, positive = example()
    assert int(positive.sum(1).max()) > 1
    loss = contrastive_loss(logits, positive)
    print(f"{loss.item():.12f} by loops {by_loops(logits.detach(), positive):.12f}")
    assert abs(loss.item() - by_loops(logits.detach(), positive)) < 1e-12
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, positive), logits)


def test_contrastive_loss_with_one_positive_is_cross_entropy():
    logits, _ = example(6, 6)
    targets = torch.arange(6)
    theirs = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    ours = symmetric_contrastive_loss(logits)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-14)
    diagonal = torch.eye(6, dtype=torch.bool)
    assert torch.allclose(symmetric_contrastive_loss(logits, diagonal), theirs, rtol=0, atol=1e-14)
    a, b = (torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (ours, theirs))
    assert torch.allclose(a, b, rtol=0, atol=1e-14)


def test_symmetric_contrastive_loss_transposes_the_positives():
    logits, positive = example(6, 6)
    expected = by_loops(logits.detach(), positive) + by_loops(logits.detach().T, positive.T)
    assert not torch.equal(positive, positive.T)
    assert abs(symmetric_contrastive_loss(logits, positive).item() - expected / 2) < 1e-12


def test_contrastive_loss_of_a_caption_that_is_there_twice_has_no_false_negative():
    """Two pictures with one caption, both found: no gradient is left, where one positive each pulls them apart."""
    logits = torch.tensor([[40.0, 40.0], [40.0, 40.0]], requires_grad=True)
    both = torch.ones(2, 2, dtype=torch.bool)
    (alike,) = torch.autograd.grad(symmetric_contrastive_loss(logits, both), logits)
    (apart,) = torch.autograd.grad(symmetric_contrastive_loss(logits), logits)
    print(alike, apart)
    assert alike.abs().max() < 1e-6 < 0.1 < apart.abs().max()


def test_contrastive_loss_of_impossible_pairs_is_finite():
    logits = torch.tensor([[0.0, -float("inf")], [-float("inf"), 0.0]])
    assert contrastive_loss(logits, torch.eye(2, dtype=torch.bool)).item() == 0
