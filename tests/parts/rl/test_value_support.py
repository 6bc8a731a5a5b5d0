"""MuZero's transform against its formula, supports against their means, n-step targets against their definition."""

import itertools
import math

import pytest
import torch

from torchstone.parts.rl.value_support import (
    expected_value,
    n_step_targets,
    scale_value,
    two_hot,
    unscale_value,
    value_target,
)

X = torch.cat([torch.linspace(-400, 400, 801), torch.tensor([1e-6, -1e-6, 0.5, 12_345.6])]).double()


def test_transform_is_the_papers_formula():
    for x, y in zip(X.tolist(), scale_value(X).tolist(), strict=True):
        assert y == pytest.approx(math.copysign(1, x) * (math.sqrt(abs(x) + 1) - 1) + 0.001 * x, abs=1e-12)
    assert scale_value(torch.tensor([0.0, 3.0, -3.0])).tolist() == pytest.approx([0.0, 1.003, -1.003])


def test_inverse_undoes_the_transform():
    assert torch.allclose(unscale_value(scale_value(X)), X, rtol=1e-9, atol=1e-9)
    assert torch.allclose(scale_value(unscale_value(X)), X, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_two_hot_has_the_value_as_its_mean_on_neighbouring_atoms(size):
    y = torch.linspace(-size - 2, size + 2, 101, dtype=torch.float64)
    p = two_hot(y, size)
    atoms = torch.arange(-size, size + 1, dtype=torch.float64)
    assert torch.allclose(p.sum(-1), torch.ones_like(y))
    assert torch.allclose(p @ atoms, y.clamp(-size, size))
    assert (p >= 0).all()
    for row in p:
        used = row.nonzero()[:, 0].tolist()
        assert len(used) <= 2
        assert used[-1] - used[0] <= 1
    for atom in range(-size, size + 1):  # at both ends too
        assert two_hot(torch.tensor(float(atom)), size)[atom + size] == 1


def test_values_are_read_back_from_their_targets():
    x = torch.linspace(-60, 60, 240, dtype=torch.float64).view(3, 80)
    logits = value_target(x, 10).clamp_min(1e-300).log()
    assert torch.allclose(expected_value(logits), x, atol=1e-8)
    x = x.clamp(-10, 10)
    logits = value_target(x, 10, scale=False).clamp_min(1e-300).log()
    assert torch.allclose(expected_value(logits, scale=False), x, atol=1e-8)


def plain_targets(reward, discount, value, n, position):
    """The definition: nothing that comes after an action with discount 0 counts, and beyond the first end a target
    is 0."""
    if any(discount[t] == 0 for t in range(position)):
        return 0.0
    total, factor = 0.0, 1.0
    for i in range(n):
        total += factor * reward[position + i]
        factor *= discount[position + i]
        if factor == 0:
            return total
    return total + factor * value[position + n]


@pytest.mark.parametrize(("n", "sign"), [*itertools.product([1, 2, 5], [1, -1])])
def test_targets_equal_the_definition_at_and_beyond_an_episodes_end(n, sign):
    """With the other player's view in every step, where `sign` is -1; episodes end at every possible step."""
    positions = 6
    time = positions + n - 1
    for end in [None, *range(time)]:
        generator = torch.Generator().manual_seed(end or 0)
        reward, value = (
            torch.randn(t, 2, generator=generator, dtype=torch.float64) for t in (time, time + 1)
        )
        discount = torch.full((time, 2), 0.9 * sign, dtype=torch.float64)
        if end is not None:
            discount[end, 0] = 0
            value[end + 1 :, 0] = torch.nan  # of another episode: it must not even be multiplied
        z, is_beyond = n_step_targets(reward, discount, value, n)
        for env, t in itertools.product(range(2), range(positions)):
            columns = (x[:, env].tolist() for x in (reward, discount, value))
            assert z[t, env].item() == pytest.approx(plain_targets(*columns, n, t), abs=1e-12)
            assert is_beyond[t, env].item() == (env == 0 and end is not None and t > end)
