"""Color operations and RandAugment against torchvision's."""

import importlib
import math

import pytest
import torch

from torchstone.data.vision import color_ops, randaugment
from torchstone.data.vision.augment import parse_augmentation
from torchstone.errors import BadInput
from torchstone.parts.optional_imports import import_torchvision


@pytest.fixture(scope="module")
def theirs():
    import_torchvision()
    return importlib.import_module("torchvision.transforms.v2.functional")


def pictures(count=12, channels=3, side=32):
    """Photograph-like: smooth, with some flat and some dark ones, and a channel of one level."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side + 4), mode="bicubic")
    spread = torch.linspace(0.2, 1, count).view(-1, 1, 1, 1)
    images = (smooth.clamp(0, 1) * spread * 255).byte()
    images[0, 0] = 77
    return images


def reference(f, name, image, share):
    """What torchvision's RandAugment does with an operation, at `share` of its magnitudes' range."""
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    height, width = image.shape[-2:]
    shear = math.degrees(math.atan(0.3 * share))
    factor, size = 1 + 0.9 * share, abs(share)
    return {
        "identity": lambda: image,
        "shear_x": lambda: f.affine(image, **(still | {"shear": [shear, 0.0]}), center=[0, 0]),
        "shear_y": lambda: f.affine(image, **(still | {"shear": [0.0, shear]}), center=[0, 0]),
        "translate_x": lambda: f.affine(
            image, **(still | {"translate": [int(150 / 331 * width * share), 0]})
        ),
        "translate_y": lambda: f.affine(
            image, **(still | {"translate": [0, int(150 / 331 * height * share)]})
        ),
        "rotate": lambda: f.rotate(image, 30 * share),
        "brightness": lambda: f.adjust_brightness(image, factor),
        "color": lambda: f.adjust_saturation(image, factor) if len(image) == 3 else image,
        "contrast": lambda: f.adjust_contrast(image, factor),
        "sharpness": lambda: f.adjust_sharpness(image, factor),
        "posterize": lambda: f.posterize(image, 8 - round(4 * size)),
        "solarize": lambda: f.solarize(image, 255 * (1 - size)),
        "autocontrast": lambda: f.autocontrast(image),
        "equalize": lambda: f.equalize(image),
    }[name]()


# Shares of pixels where the order of operations in float32 may make a level fall either side of a
# whole number, before both cut the rest off.
ROUNDED = {"color": 0.03, "sharpness": 0.01, "autocontrast": 0.1}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", randaugment.NAMES)
def test_operations_match_torchvision(theirs, name, channels):
    images = pictures(channels=channels)
    for magnitude in (3, 9, 14, 30):
        for sign in (1, -1):
            share = sign * magnitude / 30
            chosen = torch.full((len(images),), randaugment.NAMES.index(name))
            ours = randaugment.apply_operations(images, chosen, torch.full((len(images),), share))
            other = torch.stack([reference(theirs, name, image, share) for image in images])
            assert ours.dtype == torch.uint8
            apart = (ours.int() - other.int()).abs()
            moved = name in randaugment.GEOMETRIC_OPS
            other_pixels = (apart > 0).float().mean().item()
            print(f"{name} {share:+.2f}: other in {other_pixels:.1e} of pixels, by {apart.max()}")
            # a place half-way between two pixels may be rounded either way; a level by one
            assert other_pixels <= (0.002 if moved else ROUNDED.get(name, 0))
            assert moved or apart.max() <= 1
            if name not in ("identity", "autocontrast", "equalize", "color") and magnitude > 9:
                assert (ours != images).float().mean() > 0.05
    assert (channels == 1 and name == "color") or name == "identity" or not torch.equal(ours, images)


def test_autocontrast_exact_in_integers():
    images = pictures()
    ours = color_ops.apply_table(images, color_ops.autocontrast(images)).long()
    rows = images.flatten(0, 1).long()
    low, high = rows.amin((1, 2), keepdim=True), rows.amax((1, 2), keepdim=True)
    slow = torch.where(high > low, (rows - low) * 255 // (high - low).clamp(min=1), rows)
    print("levels compared:", slow.numel())
    assert torch.equal(ours.flatten(0, 1), slow)


def test_apply_operations_per_image(theirs):
    """A mixed batch is what its pictures give one by one."""
    images = pictures(28)
    chosen = torch.arange(28) % 14
    share = torch.where(torch.arange(28) < 14, 0.4, -0.4)
    together = randaugment.apply_operations(images, chosen, share)
    for i in range(28):
        alone = randaugment.apply_operations(images[i : i + 1], chosen[i : i + 1], share[i : i + 1])
        assert torch.equal(together[i : i + 1], alone), randaugment.NAMES[i % 14]
    assert not torch.equal(images, together)


def test_randaugment_operations_and_directions_equally_frequent(monkeypatch):
    seen = []

    def watch(images, chosen, share):
        seen.append((chosen, share))
        return images

    monkeypatch.setattr(randaugment, "apply_operations", watch)
    generator, count = torch.Generator().manual_seed(0), 14_000
    randaugment.randaugment(3, 9)(
        torch.zeros(count, 1, 1, 1, dtype=torch.uint8),
        lambda *shape: torch.rand(count, *shape, generator=generator),
    )
    assert len(seen) == 3
    for chosen, share in seen:
        counts = torch.bincount(chosen, minlength=14)
        chi2 = ((counts - 1000) ** 2 / 1000).sum().item()
        print("chi²:", round(chi2, 1), "forward:", (share > 0).float().mean().item())
        assert len(counts) == 14
        assert chi2 < 34.5  # 0.1 % of 13 degrees of freedom
        assert abs((share > 0).float().mean().item() - 0.5) < 0.02
        assert torch.allclose(share.abs(), torch.tensor(0.3))
    pairs = torch.bincount(seen[0][0] * 14 + seen[1][0], minlength=196)
    print("pairs of operations seen:", int((pairs > 0).sum()), "of 196")
    assert (pairs > 0).all()


def test_randaugment_rounds_float_images():
    images, generator = pictures(), torch.Generator()
    results = []
    for kind in (images, images.float() + 0.3):
        generator.manual_seed(0)
        change = randaugment.randaugment(2, 9)
        results.append(change(kind, lambda *s: torch.rand(len(images), *s, generator=generator)))
    assert torch.equal(*results)


def test_jitter_matches_torchvision(theirs):
    images = pictures()
    numbers = torch.rand(len(images), 4, generator=torch.Generator().manual_seed(3))
    ours = color_ops.jitter(0.4, 0.1)(images, lambda *shape: numbers)
    assert ours.is_floating_point()
    for image, out, (b, c, s, h) in zip(images.float() / 255, ours, numbers.tolist(), strict=True):
        image = theirs.adjust_brightness(image, 1 + 0.4 * (2 * b - 1))
        image = theirs.adjust_contrast(image, 1 + 0.4 * (2 * c - 1))
        image = theirs.adjust_saturation(image, 1 + 0.4 * (2 * s - 1))
        image = theirs.adjust_hue(image, 0.1 * (2 * h - 1))
        apart = (image * 255 - out).abs().max().item()
        assert apart < 0.1
    print("last picture: levels apart at most", apart)
    single = color_ops.jitter(0.4, 0.1)(images[:, :1], lambda *shape: numbers)
    assert single.shape[1] == 1
    assert single.min() >= 0
    assert single.max() <= 255


def test_jitter_brightness_range():
    images = torch.full((4000, 1, 1, 1), 100.0)
    numbers = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0))
    values = color_ops.jitter(0.4, 0.0)(images, lambda *shape: numbers).flatten()
    print("brightness factors:", values.min().item() / 100, "to", values.max().item() / 100)
    assert 60 <= values.min() < 61
    assert 139 < values.max() <= 140


def test_rotate_hue_is_periodic():
    images = pictures().float()
    third = torch.full((len(images),), 1 / 3)
    once = color_ops.rotate_hue(images, third)
    back = color_ops.rotate_hue(color_ops.rotate_hue(once, third), third)
    assert (once - images.roll(1, 1)).abs().max() < 0.01
    assert (back - images).abs().max() < 0.01


@pytest.mark.parametrize(("count", "magnitude"), [(0, 9), (2, 31), (2, -1)])
def test_randaugment_rejects_invalid_arguments(count, magnitude):
    with pytest.raises(BadInput, match="from 0 to 30"):
        randaugment.randaugment(count, magnitude)


def test_operations_at_magnitude_zero():
    """Autocontrast and equalize have no magnitude; solarize at 0 inverts what is fully bright."""
    images = pictures().clamp(max=254)
    for number, name in enumerate(randaugment.NAMES):
        chosen = torch.full((len(images),), number)
        same = torch.equal(images, randaugment.apply_operations(images, chosen, torch.zeros(len(images))))
        assert same == (name not in ("autocontrast", "equalize")), name
    augmentation, mixing = parse_augmentation("randaugment")
    assert augmentation is not None
    assert mixing is None
