"""Label-smoothed cross-entropy against its definition, and the unigram baseline."""

import math

import torch

from torchstone.parts.transformer.token_loss import token_loss, unigram_loss

PAD = 0


def test_token_loss_with_label_smoothing_equals_definition():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 7), torch.randint(1, 7, (3, 4))
    labels[1, 2:] = labels[2, 1:] = PAD
    logits[labels == PAD] += 100 * torch.randn(5, 7)  # logits of padding must not count
    smoothing, losses, correct = 0.1, [], 0
    for row, label in zip(logits.flatten(0, 1), labels.flatten().tolist(), strict=True):
        if label == PAD:
            continue
        log_probs = row - row.exp().sum().log()
        target = [smoothing / 7 + (1 - smoothing) * (i == label) for i in range(7)]
        losses.append(-sum(p * x for p, x in zip(target, log_probs.tolist(), strict=True)))
        correct += int(row.argmax()) == label
    metrics = token_loss(logits, labels, pad=PAD, label_smoothing=smoothing)
    print(metrics, sum(losses) / len(losses))
    assert metrics["weight"] == len(losses) == 7
    assert math.isclose(metrics["loss"], sum(losses) / len(losses), rel_tol=1e-5)
    assert math.isclose(metrics["accuracy"], correct / 7, rel_tol=1e-6)


def test_unigram_loss_counts_each_token_once_more():
    train, targets = torch.tensor([0, 0, 1]), torch.tensor([0, 2])
    expected = -(math.log(3 / 6) + math.log(1 / 6)) / 2
    assert math.isclose(unigram_loss(train, targets, 3), expected, rel_tol=1e-9)
