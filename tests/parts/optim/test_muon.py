"""Muon against torch's with the same cast, and its iteration against the singular value decomposition."""

from functools import partial

import pytest
import torch
from parts.optim.trajectories import gap, set_gradients, weights

from torchstone.parts.optim.muon import COEFFICIENTS, Muon, orthogonalize

MATRICES = ((6, 4), (3, 7), (5, 5), (1, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", [None, "original", "match_rms_adamw"])
def test_muon_equals_torch_with_its_cast(dtype, nesterov, scale):
    options = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov, "adjust_lr_fn": scale}
    ours, theirs = partial(Muon, dtype=torch.bfloat16, **options), partial(torch.optim.Muon, **options)
    worst = gap(ours, theirs, shapes=MATRICES, dtype=dtype)
    print(worst)
    assert worst <= (1e-12 if dtype == torch.float64 else 1e-6)


def test_muon_in_full_precision_is_near_torch_but_not_equal():
    """bfloat16 has 8 bits: in 100 steps it moves the weights elsewhere by more than rounding of float32 does."""
    options = {"lr": 0.02, "weight_decay": 0.0}
    worst = gap(partial(Muon, **options), partial(torch.optim.Muon, **options), shapes=MATRICES, dtype=torch.float32)
    print(f"{worst:.1e}")
    assert 1e-4 < worst < 0.1


@pytest.mark.parametrize("shape", MATRICES)
def test_orthogonalize_maps_singular_values_only(shape):
    """U·f⁵(Σ/‖B‖)·Vᵀ with f(σ) = aσ + bσ³ + cσ⁵, by the decomposition."""
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = COEFFICIENTS
    s = s / matrix.norm()
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalize(matrix), u @ torch.diag(s) @ v, rtol=0, atol=1e-12)


def test_orthogonalize_flattens_the_spectrum():
    matrix = torch.randn(16, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix))
    print(values)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.25


def test_filters_are_matrices():
    (filters,), (matrix,) = weights(((4, 3, 2, 2),)), weights(((4, 3, 2, 2),))
    matrix = torch.nn.Parameter(matrix.detach().flatten(1))
    optimizers = Muon([filters], lr=0.02), Muon([matrix], lr=0.02)
    for step in range(5):
        set_gradients([filters], step)
        matrix.grad = filters.grad.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(filters.flatten(1), matrix, rtol=0, atol=1e-14)


def test_biases_are_refused():
    with pytest.raises(ValueError, match="shape \\(3,\\)"):
        Muon(weights(((3,),)))
