"""Dequantization, the logit, bits per dimension and the baselines against their definitions."""

import math

import pytest
import torch
from sklearn.neighbors import KernelDensity

from torchstone.parts.flow import likelihood
from torchstone.parts.flow.likelihood import (
    ALPHA,
    bits_per_dim,
    dequantize,
    histogram_bits_per_dim,
    inverse_logit,
    log_kernel_density,
    logit,
    pixel_histogram,
    quantize,
    to_uint8,
)

EVERY = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


@pytest.mark.parametrize("levels", [256, 32, 17, 2])
def test_dequantize_inverts_to_levels(levels):
    quantized = quantize(EVERY, levels)
    counts = torch.bincount(quantized.long().flatten())
    print(
        f"{levels} levels: {int(quantized.min())} to {int(quantized.max())}, of each {counts.tolist()[:3]}…"
    )
    assert len(counts) == levels
    assert int(counts.max() - counts.min()) <= 1
    for u in (0.0, 0.5, 0.999):
        y = dequantize(EVERY.double(), torch.full(EVERY.shape, u).double(), levels)
        assert float(y.min()) >= 0
        assert float(y.max()) < 1
        assert torch.equal(quantize(to_uint8(y.float(), levels), levels), quantized)
    if levels == 256:
        assert torch.equal(to_uint8(dequantize(EVERY, torch.full(EVERY.shape, 0.5))), EVERY)


def test_logit_inverse_and_log_det():
    y = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    x, slope = logit(y)
    back, slope_back = inverse_logit(x)
    each = torch.log(ALPHA + (1 - 2 * ALPHA) * y) - torch.log(1 - ALPHA - (1 - 2 * ALPHA) * y)
    by_hand = []
    for picture in y:
        jacobian = torch.autograd.functional.jacobian(
            lambda v: logit(v.view(1, 1, 4, 4))[0].flatten(), picture.flatten()
        )
        by_hand.append(torch.linalg.slogdet(jacobian)[1])
    error = float((slope - torch.stack(by_hand)).abs().max())
    print(f"slopes {slope.tolist()}, {error:.1e} from autograd's")
    assert torch.allclose(x, each, atol=1e-12)
    assert error < 1e-10
    assert torch.allclose(slope_back, -slope, atol=1e-10)
    assert torch.allclose(back, y, atol=1e-12)


def test_logit_is_finite_at_black_and_white():
    x, slope = logit(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    assert bool(torch.isfinite(x).all())
    assert bool(torch.isfinite(slope).all())


def test_bits_per_dim_of_uniform_density():
    for levels in (256, 17):
        assert float(bits_per_dim(torch.zeros(1).double(), 64, levels)) == pytest.approx(math.log2(levels))


def test_bits_per_dim_bounded_by_entropy():
    """Theis et al. 2015, 3.1: a density that is p(k) · levels within bin k reaches the entropy, any other
    needs more."""
    p = torch.tensor([0.5, 0.25, 0.125, 0.125]).double()
    k = torch.repeat_interleave(torch.arange(4), torch.tensor([4, 2, 1, 1]))
    images = (k * 64 + 32).to(torch.uint8).view(-1, 1, 1, 1)
    u = (torch.arange(1000).double() + 0.5) / 1000
    y = dequantize(images.expand(-1, 1, 1, 1000), u.expand(8, 1, 1, 1000), 4)
    flat = (p * 4).log()[(y * 4).long()]
    sloped = flat + (0.5 + (y * 4) % 1).log()  # within each bin from ½ to 1½: mass 1 all the same
    entropy = -float((p * p.log2()).sum())
    found = [float(bits_per_dim(each.mean(3).flatten(1).sum(1), 1, 4).mean()) for each in (flat, sloped)]
    print(f"entropy {entropy}, by the flat density {found[0]}, by the sloped one {found[1]}")
    assert found[0] == pytest.approx(entropy, abs=1e-9)
    assert found[1] > entropy + 0.01


def test_pixel_histogram_counts():
    seen = torch.tensor([0, 0, 255, 0], dtype=torch.uint8).view(4, 1, 1, 1)
    table = pixel_histogram(seen, levels=2)
    assert table.exp().flatten().tolist() == pytest.approx([4 / 6, 2 / 6])
    assert histogram_bits_per_dim(table, seen).tolist() == pytest.approx(
        [-math.log2(4 / 6)] * 2 + [-math.log2(2 / 6), -math.log2(4 / 6)]
    )
    many = torch.randint(0, 256, (50, 2, 3, 3), dtype=torch.uint8)
    sums = pixel_histogram(many, 17).exp().sum(0)
    assert torch.allclose(sums, torch.ones_like(sums))


def test_pixel_histogram_smooths_unseen_levels():
    table = pixel_histogram(torch.zeros(10, 1, 1, 1, dtype=torch.uint8))
    far = histogram_bits_per_dim(table, torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))
    assert float(far) == pytest.approx(math.log2(266))


def test_log_kernel_density_matches_scikit_learn(monkeypatch):
    monkeypatch.setattr(likelihood, "CHUNK_SIZE", 7)  # several chunks
    points, x = torch.randn(60, 3).double(), torch.randn(20, 3).double()
    for bandwidth in (0.05, 0.4, 2.0):
        theirs = KernelDensity(bandwidth=bandwidth).fit(points.numpy()).score_samples(x.numpy())
        ours = log_kernel_density(x, points, bandwidth)
        error = float((ours - torch.from_numpy(theirs)).abs().max())
        print(f"bandwidth {bandwidth}: difference {error:.1e}")
        assert error < 1e-6


def test_log_kernel_density_integrates_to_one():
    points = torch.randn(30, 2).double()
    step = (torch.arange(200).double() + 0.5) / 200 * 16 - 8
    total = log_kernel_density(torch.cartesian_prod(step, step), points, 0.3).exp().sum() * 0.08**2
    print(float(total))
    assert abs(float(total) - 1) < 1e-6
