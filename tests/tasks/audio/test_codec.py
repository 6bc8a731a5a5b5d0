"""Decibels of known ratios."""

import pytest
import torch

from torchstone.tasks.audio.codec import signal_to_noise


def test_decibels():
    x = torch.ones(1, 1, 8, dtype=torch.float64)
    assert float(signal_to_noise(x, 0.9 * x)) == pytest.approx(20, abs=1e-6)
    assert float(signal_to_noise(x, torch.zeros_like(x))) == pytest.approx(0, abs=1e-9)
    assert float(signal_to_noise(x, -x)) == pytest.approx(-6.0206, abs=1e-4)
    assert float(signal_to_noise(0 * x, 0 * x)) == 0
