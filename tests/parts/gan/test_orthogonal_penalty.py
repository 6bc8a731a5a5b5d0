"""Orthogonal regularization against its formula, and its gradient against the hand-derived one."""

import pytest
import torch

from torchstone.parts.gan.orthogonal_penalty import orthogonal_penalty


def test_orthogonal_penalty_sums_products_of_different_filters():
    torch.manual_seed(0)
    weights = [torch.randn(4, 2, 3, 3).double(), torch.randn(5, 7).double()]
    expected = 0.0
    for weight in weights:
        rows = [row.flatten() for row in weight]
        expected += sum(float(a @ b) ** 2 for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j)
    assert float(orthogonal_penalty(weights)) == pytest.approx(expected, rel=1e-12)


def test_orthogonal_penalty_gradient_is_4_gram_off_diagonal_times_w():
    torch.manual_seed(0)
    weight = torch.randn(5, 2, 3).double().requires_grad_()
    orthogonal_penalty([weight]).backward()
    w = weight.detach().flatten(1)
    expected = 4 * ((w @ w.T) * (1 - torch.eye(5).double())) @ w
    assert torch.allclose(weight.grad.flatten(1), expected, atol=1e-12)


def test_orthogonal_penalty_leaves_norms_free():
    rows = torch.linalg.qr(torch.randn(6, 6))[0][:4]
    assert float(orthogonal_penalty([rows * torch.tensor([[1.0], [5.0], [0.1], [0.0]])])) < 1e-8
