"""The DRU: a noisy sigmoid in training, a bit in use."""

import pytest
import torch

from torchstone.parts.rl.discretize_regularize import discretize_regularize


def test_training_and_use():
    message = torch.tensor([-3.0, -0.1, 0.0, 0.2, 4.0], requires_grad=True)
    noise = torch.tensor([0.5, 1.0, -1.0, 0.0, 2.0])
    found = discretize_regularize(message, noise, 2.0)
    expected = [
        1 / (1 + torch.tensor(-(m + 2.0 * n)).exp().item())
        for m, n in zip(message.tolist(), noise.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), message)
    assert gradient.tolist() == pytest.approx([p * (1 - p) for p in expected], rel=2e-4)
    assert discretize_regularize(message, None, 2.0).tolist() == [0, 0, 0, 1, 1]


def test_in_use_it_is_the_steep_sigmoid_of_the_authors_code():
    """sigmoid(40 m), rounded: a constant 2 · 20, whatever σ."""
    message = torch.linspace(-5, 5, 101)
    for sigma in (0.5, 2.0):
        assert torch.equal(discretize_regularize(message, None, sigma), torch.sigmoid(40 * message).round())
