"""Kernel density estimation against scikit-learn's, and as a density."""

import torch
from sklearn.neighbors import KernelDensity
from torchstone.parts.metrics.kernel_density import log_kernel_density

from torchstone.parts.metrics import kernel_density


def test_it_is_scikit_learns(monkeypatch):
    monkeypatch.setattr(kernel_density, "ROWS", 7)  # several pieces
    points, x = torch.randn(60, 3).double(), torch.randn(20, 3).double()
    for width in (0.05, 0.4, 2.0):
        theirs = KernelDensity(bandwidth=width).fit(points.numpy()).score_samples(x.numpy())
        ours = log_kernel_density(x, points, width)
        apart = float((ours - torch.from_numpy(theirs)).abs().max())
        print(f"width {width}: {apart:.1e} apart")
        assert apart < 1e-6


def test_it_integrates_to_one():
    points = torch.randn(30, 2).double()
    step = (torch.arange(200).double() + 0.5) / 200 * 16 - 8
    total = log_kernel_density(torch.cartesian_prod(step, step), points, 0.3).exp().sum() * 0.08**2
    print(float(total))
    assert abs(float(total) - 1) < 1e-6
