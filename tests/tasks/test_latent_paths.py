"""Straight lines between latents."""

import torch

from torchstone.tasks.latent_paths import latent_paths


def test_latent_paths_are_straight_and_include_both_ends():
    first, last = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    paths = latent_paths(first, last, 4).view(3, 4, 5)
    assert torch.equal(paths[:, 0], first)
    assert torch.allclose(paths[:, -1], last)
    assert torch.allclose(paths[:, 1], (2 * first + last) / 3)
    assert torch.allclose(paths.diff(dim=1).std(1), torch.zeros(3, 5).double(), atol=1e-12)
