"""Augmentations against slow loops per image."""

import pytest
import torch

from torchstone.data.vision import augment
from torchstone.errors import BadInput


def pictures(count=16, channels=2, height=7, width=9):
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)


def recorded(count, seed=0):
    """A draw and the list of what it drew."""
    generator, drawn = torch.Generator().manual_seed(seed), []

    def draw(*shape):
        drawn.append(torch.rand(count, *shape, generator=generator))
        return drawn[-1]

    return draw, drawn


def test_shift_equals_blanked_roll():
    images = pictures()
    draw, drawn = recorded(len(images))
    moved = augment.shift(2)(images, draw)
    assert moved.dtype == torch.uint8
    seen = set()
    for image, out, numbers in zip(images, moved, drawn[0].tolist(), strict=True):
        down, right = (2 - int(5 * u) for u in numbers)
        seen.add((down, right))
        slow = image.roll((down, right), (1, 2))
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                if not (0 <= y - down < image.shape[1] and 0 <= x - right < image.shape[2]):
                    slow[:, y, x] = 0
        assert torch.equal(out, slow)
    print("shifts compared:", sorted(seen))
    assert len(seen) > 5


@pytest.mark.parametrize("mode", ["reflect", "zero"])
def test_crop_equals_slow_loop(mode):
    images = pictures()
    draw, drawn = recorded(len(images))
    cropped = augment.crop(3, mode)(images, draw)
    for image, out, (u, v) in zip(images, cropped, drawn[0].tolist(), strict=True):
        padding = (3,) * 4
        padded = torch.nn.functional.pad(
            image.float(), padding, mode="reflect" if mode == "reflect" else "constant"
        )
        top, left = int(7 * u), int(7 * v)
        slow = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        assert torch.equal(out.float(), slow)
    print("crops compared:", len(images), mode)


def test_flip_mirrors_half():
    images = pictures(64)
    draw, drawn = recorded(64)
    flipped = augment.flip()(images, draw)
    chosen = drawn[0].flatten() < 0.5
    assert torch.equal(flipped[chosen], images[chosen].flip(3))
    assert torch.equal(flipped[~chosen], images[~chosen])
    print("mirrored", int(chosen.sum()), "of 64")
    assert 16 < chosen.sum() < 48


def test_affine_identity_rotation_and_translation():
    images = pictures(height=16, width=16)
    draw, _ = recorded(len(images))
    same = augment.affine(0, 0, 0)(images, draw)
    worst = (same - images).abs().max().item()
    print("largest difference at zero strength:", worst)
    assert worst < 1e-2
    quarter = augment.affine(90, 0, 0)(images, lambda *shape: torch.ones(len(images), *shape))
    worst = min((quarter - images.rot90(k, (2, 3))).abs().max().item() for k in (1, 3))
    print("largest difference at 90 degrees:", worst)
    assert worst < 1e-2
    moved = augment.affine(0, 0, 0.25)(images, lambda *shape: torch.ones(len(images), *shape))
    worst = (moved[:, :, :12, :12] - images[:, :, 4:, 4:]).abs().max().item()
    assert worst < 1e-2
    assert moved[:, :, 12:].abs().max() < 1e-2


def test_make_augmentation_composes_named_steps():
    images = pictures()
    assert augment.make_augmentation("none") is None
    draw, drawn = recorded(len(images))
    both = augment.make_augmentation("flip-crop4")(images, draw)
    again = iter(drawn)
    flipped = augment.flip()(images, lambda *shape: next(again))
    assert torch.equal(both, augment.crop(4)(flipped, lambda *shape: next(again)))
    with pytest.raises(BadInput, match="pad less"):
        augment.crop(7)(images, draw)
