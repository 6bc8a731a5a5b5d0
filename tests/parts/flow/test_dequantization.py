"""Dequantisation, the logit and bits per dimension against their definitions."""

import math

import pytest
import torch
from torchstone.parts.flow.dequantization import (
    ALPHA,
    bits_per_dim,
    dequantize,
    histogram_bits_per_dim,
    inverse_logit,
    logit,
    pixel_histogram,
    quantize,
    to_uint8,
)

EVERY = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


@pytest.mark.parametrize("levels", [256, 32, 17, 2])
def test_levels_come_back_whatever_the_noise(levels):
    whole = quantize(EVERY, levels)
    counts = torch.bincount(whole.long().flatten())
    print(f"{levels} levels: {int(whole.min())} to {int(whole.max())}, of each {counts.tolist()[:3]}…")
    assert len(counts) == levels
    assert int(counts.max() - counts.min()) <= 1
    for u in (0.0, 0.5, 0.999):
        y = dequantize(EVERY.double(), torch.full(EVERY.shape, u).double(), levels)
        assert float(y.min()) >= 0
        assert float(y.max()) < 1
        assert torch.equal(quantize(to_uint8(y.float(), levels), levels), whole)
    if levels == 256:
        assert torch.equal(to_uint8(dequantize(EVERY, torch.full(EVERY.shape, 0.5))), EVERY)


def test_the_logit_is_undone_and_tells_its_slope():
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
    apart = float((slope - torch.stack(by_hand)).abs().max())
    print(f"slopes {slope.tolist()}, {apart:.1e} from autograd's")
    assert torch.allclose(x, each, atol=1e-12)
    assert apart < 1e-10
    assert torch.allclose(slope_back, -slope, atol=1e-10)
    assert torch.allclose(back, y, atol=1e-12)


def test_pure_black_and_white_stay_finite():
    x, slope = logit(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    assert bool(torch.isfinite(x).all())
    assert bool(torch.isfinite(slope).all())


def test_bits_of_one_density_everywhere_are_the_levels():
    for levels in (256, 17):
        assert float(bits_per_dim(torch.zeros(1).double(), 64, levels)) == pytest.approx(math.log2(levels))


def test_bits_never_fall_below_those_of_the_best_discrete_code():
    """Theis et al. 2015, 3.1: a density that is p(k) · levels within bin k reaches the entropy, any other
    needs more."""
    p = torch.tensor([0.5, 0.25, 0.125, 0.125]).double()
    k = torch.repeat_interleave(torch.arange(4), torch.tensor([4, 2, 1, 1]))
    pictures = (k * 64 + 32).to(torch.uint8).view(-1, 1, 1, 1)
    u = (torch.arange(1000).double() + 0.5) / 1000
    y = dequantize(pictures.expand(-1, 1, 1, 1000), u.expand(8, 1, 1, 1000), 4)
    flat = (p * 4).log()[(y * 4).long()]
    sloped = flat + (0.5 + (y * 4) % 1).log()  # within each bin from ½ to 1½: mass 1 all the same
    entropy = -float((p * p.log2()).sum())
    found = [float(bits_per_dim(each.mean(3).flatten(1).sum(1), 1, 4).mean()) for each in (flat, sloped)]
    print(f"entropy {entropy}, by the flat density {found[0]}, by the sloped one {found[1]}")
    assert found[0] == pytest.approx(entropy, abs=1e-9)
    assert found[1] > entropy + 0.01


def test_the_histogram_counts():
    seen = torch.tensor([0, 0, 255, 0], dtype=torch.uint8).view(4, 1, 1, 1)
    table = pixel_histogram(seen, levels=2)
    assert table.exp().flatten().tolist() == pytest.approx([4 / 6, 2 / 6])
    assert histogram_bits_per_dim(table, seen).tolist() == pytest.approx(
        [-math.log2(4 / 6)] * 2 + [-math.log2(2 / 6), -math.log2(4 / 6)]
    )
    many = torch.randint(0, 256, (50, 2, 3, 3), dtype=torch.uint8)
    sums = pixel_histogram(many, 17).exp().sum(0)
    assert torch.allclose(sums, torch.ones_like(sums))


def test_a_value_never_seen_still_has_a_length():
    table = pixel_histogram(torch.zeros(10, 1, 1, 1, dtype=torch.uint8))
    far = histogram_bits_per_dim(table, torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))
    assert float(far) == pytest.approx(math.log2(266))
