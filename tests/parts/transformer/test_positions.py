"""Position encodings against their formulas and transformers' implementation."""

import math

import pytest
import torch

from torchstone.parts.transformer.positions import (
    apply_rotary,
    relative_position_buckets,
    sinusoidal_grid,
    sinusoidal_positions,
)
from torchstone.references.diffusers import import_diffusers
from torchstone.references.transformers import import_transformers


def test_sinusoidal_positions_equal_formula():
    table = sinusoidal_positions(7, 10)
    for position in range(7):
        for i in range(5):
            angle = position / 10_000 ** (2 * i / 10)
            assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 40), (8, 20)])
def test_relative_position_buckets_equal_transformers(bidirectional, num_buckets, max_distance):
    import_transformers()
    from transformers.models.t5.modeling_t5 import T5Attention

    settings = {"bidirectional": bidirectional, "num_buckets": num_buckets, "max_distance": max_distance}
    ours = relative_position_buckets(300, 300, **settings)
    distance = torch.arange(300)[None] - torch.arange(300)[:, None]
    theirs = T5Attention._relative_position_bucket(distance, bidirectional, num_buckets, max_distance)
    assert torch.equal(ours, theirs)
    assert ours.unique().numel() == num_buckets - bidirectional  # no later key is 0 away
    last = relative_position_buckets(3, 300, **settings)
    assert torch.equal(last, ours[-3:])


def test_rotary_products_depend_on_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    products = {
        (i, j): float((apply_rotary(q, offset=i) * apply_rotary(k, offset=j)).sum())
        for i in range(6)
        for j in range(6)
    }
    for (i, j), product in products.items():
        same = products[i - min(i, j), j - min(i, j)]
        assert product == pytest.approx(same, abs=1e-5)
    assert abs(products[0, 5] - products[0, 0]) > 1e-3
    # each pair is rotated like a complex number
    x = torch.randn(1, 1, 5, 8, dtype=torch.float64)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    frequencies = 10_000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    angles = torch.arange(5)[:, None] * frequencies
    rotated = pairs * torch.polar(torch.ones(5, 4).double(), angles)
    expected = torch.cat([rotated.real, rotated.imag], -1)
    assert float((apply_rotary(x) - expected).abs().max()) < 1e-6


@pytest.mark.parametrize(("side", "width"), [(1, 4), (3, 8), (5, 12)])
def test_sinusoidal_grid_matches_diffusers(side, width):
    import_diffusers()
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    expected = get_2d_sincos_pos_embed(width, side, base_size=side, output_type="pt")
    assert torch.equal(sinusoidal_grid(side, side, width), expected.float())


def test_sinusoidal_grid_equals_its_formula():
    table = sinusoidal_grid(2, 3, 8).unflatten(0, (2, 3))
    for row in range(2):
        for column in range(3):
            for half, place in ((0, column), (4, row)):
                for i in range(2):
                    angle = place * 10_000 ** (-i / 2)
                    assert table[row, column, half + i] == pytest.approx(math.sin(angle), abs=1e-6)
                    assert table[row, column, half + 2 + i] == pytest.approx(math.cos(angle), abs=1e-6)
