"""Minibatch standard deviation against its definition, image by image."""

import pytest
import torch

from torchstone.parts.gan.minibatch_std import group_size_for, minibatch_std


@pytest.mark.parametrize(
    ("batch", "largest", "size"), [(8, 4, 4), (6, 4, 3), (5, 4, 1), (3, 8, 3), (7, 7, 7)]
)
def test_group_size_divides_batch(batch, largest, size):
    assert group_size_for(batch, largest) == size


def test_minibatch_std_equals_definition():
    x = torch.randn(6, 2, 3, 4, dtype=torch.float64)
    y = minibatch_std(x, 3)
    assert torch.equal(y[:, :2], x)
    for i in range(6):
        group = torch.stack([x[j] for j in range(6) if j % 2 == i % 2])
        expected = (group.var(0, correction=0) + 1e-8).sqrt().mean()
        assert torch.allclose(y[i, 2], expected, atol=1e-12)


def test_a_generator_of_one_image_shows():
    same = torch.randn(1, 2, 4, 4).expand(4, -1, -1, -1)
    assert float(minibatch_std(same, 4)[:, 2].max()) < 1e-3
    assert float(minibatch_std(torch.randn(4, 2, 4, 4), 4)[:, 2].min()) > 0.3
