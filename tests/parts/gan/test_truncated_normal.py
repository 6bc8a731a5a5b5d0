"""The truncated normal: its moments, that numbers beyond are drawn again and not clipped, its range."""

import math

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.gan.truncated_normal import check_truncation, truncated_normal


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_truncated_normal_has_the_moments_of_one():
    z = truncated_normal((40_000,), 1.0, seeded()).double()
    inside = math.erf(2 / math.sqrt(2))
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * 2 * density / inside
    assert float(z.abs().max()) <= 2
    assert not (z.abs() == 2).any()  # clipping would leave one in twenty there
    assert float(z.mean()) == pytest.approx(0, abs=0.02)
    assert float(z.var()) == pytest.approx(variance, rel=0.02)  # 0.774


def test_truncated_normal_is_scaled_and_seeded():
    z = truncated_normal((3, 50), 1.0, seeded())
    assert torch.allclose(truncated_normal((3, 50), 0.25, seeded()), 0.25 * z)
    assert not truncated_normal((3, 50), 0.0, seeded()).any()


@pytest.mark.parametrize("truncation", [-0.1, 1.01, float("nan"), float("inf")])
def test_truncation_outside_0_and_1_is_refused(truncation):
    with pytest.raises(BadInput, match=r"from 0 .* to 1"):
        check_truncation(truncation)
    with pytest.raises(BadInput, match=r"from 0 .* to 1"):
        truncated_normal((2,), truncation, seeded())
