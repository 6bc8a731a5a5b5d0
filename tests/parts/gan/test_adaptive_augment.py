"""Augmentations one by one against plain tensor operations; p = 0; how often p acts; how p is adapted."""

import math

import pytest
import torch

from torchstone.parts.gan.adaptive_augment import (
    NUM_NORMAL,
    NUM_UNIFORM,
    SCALE_STD,
    AugmentDraws,
    AugmentStrength,
    augment,
    color,
    geometry,
    warp,
)

HALF = torch.tensor(0.5)


def draws(count: int = 1, **values) -> AugmentDraws:
    """No transformation but those whose numbers are given: `u0=0.1`, `n5=1.0`."""
    uniform, normal = torch.ones(count, NUM_UNIFORM), torch.zeros(count, NUM_NORMAL)
    for name, value in values.items():
        (uniform if name[0] == "u" else normal)[:, int(name[1:])] = value
    return AugmentDraws(uniform, normal)


def random_draws(count: int) -> AugmentDraws:
    return AugmentDraws(torch.rand(count, NUM_UNIFORM), torch.randn(count, NUM_NORMAL))


@pytest.mark.parametrize("channels", [1, 3])
def test_p_0_changes_nothing(channels):
    images = torch.rand(5, channels, 8, 8) * 2 - 1
    assert torch.allclose(augment(images, torch.zeros(()), random_draws(5)), images, atol=2e-6)


GEOMETRIC = {
    "flip": ({"u0": 0.0, "u1": 0.1}, lambda x: x.flip(3)),
    "no flip": ({"u0": 0.0, "u1": 0.9}, lambda x: x),
    "quarter turn": ({"u2": 0.0, "u3": 0.3}, lambda x: x.rot90(1, (2, 3))),
    "half turn": ({"u2": 0.0, "u3": 0.6}, lambda x: x.flip(2, 3)),
    # 1 of 8 pixels to the right in the original: to the left in the result, and mirrored at the border
    "whole shift": (
        {"u4": 0.0, "u5": 1.0, "u6": 0.5},
        lambda x: torch.cat([x[..., 1:], x[..., -2:-1]], -1),
    ),
    "fractional shift": (
        {"u13": 0.0, "n2": 0.5},
        lambda x: torch.lerp(x, torch.cat([x[..., 1:], x[..., -2:-1]], -1), 0.5),
    ),
    "rotation before": ({"u8": 0.0, "u9": 0.75}, lambda x: x.rot90(1, (2, 3))),
    "rotation after": ({"u11": 0.0, "u12": 0.75}, lambda x: x.rot90(1, (2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_transformation(name):
    values, expected = GEOMETRIC[name]
    images = torch.rand(2, 3, 8, 8)
    assert torch.allclose(augment(images, HALF, draws(2, **values)), expected(images), atol=1e-5)


def test_scales_are_log_normal_about_the_center():
    matrix = geometry(HALF, draws(u7=0.0, n0=1.0), 8)[0]
    assert torch.allclose(matrix, torch.diag(torch.tensor([math.exp(SCALE_STD)] * 2 + [1.0])))
    matrix = geometry(HALF, draws(u10=0.0, n1=1.0), 8)[0]
    assert torch.allclose(matrix.diagonal()[:2].prod(), torch.tensor(1.0))
    doubled = warp(torch.arange(9.0).view(1, 1, 3, 3), torch.diag(torch.tensor([0.5, 0.5, 1]))[None])
    assert doubled[0, 0, 0].tolist() == pytest.approx([2.0, 2.5, 3.0])


COLORS = {
    "brightness": ({"u14": 0.0, "n4": 1.0}, lambda x: x + 0.2),
    "contrast": ({"u15": 0.0, "n5": 1.0}, lambda x: x * math.exp(0.5 * math.log(2))),
    "luma flip": ({"u16": 0.0, "u17": 0.1}, lambda x: x - 2 * x.mean(1, keepdim=True)),
    # a third of a turn about the gray axis changes the channels round
    "hue": ({"u18": 0.0, "u19": 0.5 + 1 / 3}, lambda x: x.roll(1, 1)),
    "saturation": (
        {"u20": 0.0, "n6": 1.0},
        lambda x: x.mean(1, keepdim=True) + 2 * (x - x.mean(1, keepdim=True)),
    ),
    "brightness before contrast": (
        {"u14": 0.0, "n4": 1.0, "u15": 0.0, "n5": 2.0},
        lambda x: 2 * (x + 0.2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COLORS)
def test_color_transformation(name):
    values, expected = COLORS[name]
    images = torch.rand(2, 3, 4, 4)
    assert torch.allclose(augment(images, HALF, draws(2, **values)), expected(images), atol=1e-5)


def test_gray_images_are_colored_like_three_equal_channels():
    gray, many = torch.rand(6, 1, 4, 4), random_draws(6)
    p = torch.tensor(0.7)
    assert torch.allclose(
        augment(gray, p, many), augment(gray.expand(-1, 3, -1, -1), p, many)[:, :1], atol=1e-5
    )


@pytest.mark.parametrize("strength", [0.2, 0.6])
def test_each_transformation_has_probability_p(strength):
    torch.manual_seed(0)
    many, p = random_draws(20_000), torch.tensor(strength)
    matrix, offset = color(p, many)
    assert float((offset != 0).any(1).double().mean()) == pytest.approx(strength, abs=0.02)
    alone = AugmentDraws(torch.ones_like(many.uniform), many.normal)
    alone.uniform[:, [8, 9, 11, 12]] = many.uniform[:, [8, 9, 11, 12]]
    is_rotated = (geometry(p, alone, 8)[:, 0, 1].abs() > 1e-6).double().mean()
    assert float(is_rotated) == pytest.approx(strength, abs=0.02)  # by either of two rotations
    assert torch.isfinite(matrix).all()


def test_augment_has_a_gradient_of_its_gradient():
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    many = AugmentDraws(*(each.double() for each in random_draws(2)))
    assert torch.autograd.gradcheck(lambda x: augment(x, HALF.double(), many).sin(), images)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, HALF.double(), many).sin(), images)


def test_strength_follows_the_signs_of_logits_and_stays_in_its_state():
    strength = AugmentStrength(10, 100, interval=2)
    for sign in (0.9, 0.5):  # their mean is above 0.6
        strength.update(torch.tensor(sign))
    assert float(strength.p) == pytest.approx(10 * 2 / 100)
    strength.update(torch.tensor(0.9))
    assert float(strength.p) == pytest.approx(0.2)  # half of an interval
    other = AugmentStrength(10, 100, interval=2)
    other.load_state_dict(strength.state_dict())
    for each in (strength, other):
        each.update(torch.tensor(0.0))
        assert float(each.p) == pytest.approx(0.0)
    for _ in range(20):
        strength.update(torch.tensor(1.0))
    assert float(strength.p) == 1
    fixed = AugmentStrength(10, 0)
    fixed.update(torch.tensor(1.0))
    assert float(fixed.p) == 0
