"""Spherical interpolation against the angles and lengths that it is defined by."""

import math

import torch

from torchstone.parts.diffusion.slerp import slerp


def angle(a, b):
    return torch.acos((torch.nn.functional.cosine_similarity(a, b)).clamp(-1, 1))


def test_equal_angles_and_a_length_from_one_to_the_other():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, 20, generator=generator, dtype=torch.float64) * s for s in (1, 3))
    theta = torch.linspace(0, 1, 11, dtype=torch.float64)
    path = slerp(a, b, theta)
    steps, omega = angle(path[:-1], path[1:]), angle(a, b)
    print(f"angle {omega.item():.4f}, steps {steps.min():.6f} to {steps.max():.6f}")
    torch.testing.assert_close(steps, omega.expand(10) / 10, rtol=1e-9, atol=0)
    torch.testing.assert_close(path.norm(dim=1), torch.lerp(a.norm(), b.norm(), theta))
    torch.testing.assert_close(path[0], a[0])
    torch.testing.assert_close(path[-1], b[0])
    straight = torch.lerp(a, b, theta[:, None])
    assert (straight[5].norm() < 0.95 * path[5].norm()).item(), "the straight way gets shorter"


def test_a_quarter_of_a_circle():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    path = slerp(a, b, torch.tensor([1 / 3]))
    expected = torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]])
    torch.testing.assert_close(path, expected)


def test_parallel_and_opposite_vectors_have_a_way():
    a, theta = torch.tensor([[0.6, 0.8]]), torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(slerp(a, 2 * a, theta), a * torch.tensor([[1.0], [1.25], [2.0]]))
    opposite = slerp(a, -a, theta)
    assert opposite.isfinite().all()
    torch.testing.assert_close(opposite[[0, 2]], torch.cat([a, -a]))
