"""Augmentation by name: `flip+crop4+randaugment2-9+erase0.25+mixup0.2`.

A name is steps joined by `+`, in the order in which they are applied. A step's name is followed by its
numbers, joined by `-`; each may be left out from the end. `STEPS` lists them all. The steps themselves
are in `geometric_ops`, `color_ops`, `randaugment` and `mixup`. An augmentation is
`(images, draw) -> images` on a whole batch on its device.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from torchstone.data.vision.color_ops import jitter
from torchstone.data.vision.geometric_ops import Augmentation, Draw, Images, affine, crop, erase, flip, shift
from torchstone.data.vision.mixup import Mixing, cutmix, mixup, one_of
from torchstone.data.vision.randaugment import randaugment
from torchstone.errors import BadInput, did_you_mean

__all__ = [
    "Augmentation",
    "Draw",
    "Images",
    "affine",
    "compose",
    "crop",
    "flip",
    "make_augmentation",
    "shift",
]


class Step(NamedTuple):
    """How to build a step from its numbers, their defaults, what they mean, the maximum of the first."""

    make: Callable
    defaults: tuple[float, ...]
    meaning: str
    maximum: float = 1.0


STEPS = {
    "flip": Step(flip, (), "none: half of the images are mirrored left to right"),
    "crop": Step(crop, (4,), "pixels of reflected border", 10_000),
    "shift": Step(shift, (2,), "pixels either way, into background", 10_000),
    "rotate": Step(lambda turn: affine(turn, 0, 0), (15,), "degrees either way", 180),
    "scale": Step(lambda by: affine(0, by, 0), (0.2,), "share of the size, larger or smaller"),
    "affine": Step(affine, (10, 0.1, 0.06), "degrees, share of the size, share of the side", 180),
    "jitter": Step(jitter, (0.4, 0.1), "strength of brightness, contrast, saturation; turns of hue"),
    "randaugment": Step(randaugment, (2, 9), "operations per image, magnitude of 0 to 30", 100),
    "erase": Step(erase, (0.25,), "share of the images that lose a rectangle"),
    "mixup": Step(mixup, (0.2,), "α, both parameters of the Beta distribution", 1000),
    "cutmix": Step(cutmix, (1.0,), "α, both parameters of the Beta distribution", 1000),
}
INTEGER_STEPS = ("crop", "shift", "randaugment")  # steps whose first number is a count
MIXINGS = ("mixup", "cutmix")
ALIASES = {"flip-crop4": "flip+crop4"}  # names in older records and runs


def compose(*augmentations: Augmentation) -> Augmentation:
    """One after another, each with its own random numbers."""

    def apply(images: Images, draw: Draw) -> Images:
        for augmentation in augmentations:
            images = augmentation(images, draw)
        return images

    return apply


def parse_augmentation(name: str) -> tuple[Augmentation | None, Mixing | None]:
    """(augmentation of the images, mixing of images and labels) that `name` describes; `none` is neither.

    Where both `mixup` and `cutmix` are named, each image takes one of them.

    Raises:
        BadInput: an unknown step, or numbers that it cannot take.
    """
    if name == "none":
        return None, None
    augmentations, mixings = [], []
    for word in ALIASES.get(name, name).split("+"):
        step, function = _parse_step(word)
        (mixings if step in MIXINGS else augmentations).append(function)
    augmentation = compose(*augmentations) if len(augmentations) > 1 else (augmentations or [None])[0]
    mixing = one_of(*mixings) if len(mixings) > 1 else (mixings or [None])[0]
    return augmentation, mixing


def make_augmentation(name: str) -> Augmentation | None:
    """An augmentation of images alone, such as `affine` or `flip+crop4`; `none` is None."""
    augmentation, mixing = parse_augmentation(name)
    if mixing is not None:
        raise BadInput(f"{name!r} mixes labels too, and this system's cannot be mixed")
    return augmentation


def _parse_step(word: str) -> tuple[str, Callable]:
    """A step's name, and the step built with its numbers."""
    parts = re.fullmatch(r"([a-z_]+)((?:\d+\.?\d*|\.\d+)(?:-(?:\d+\.?\d*|\.\d+))*)?", word)
    step = parts[1] if parts else word.rstrip("0123456789.-")
    if step not in STEPS:
        example = "steps joined by +, such as flip+crop4+erase0.25"
        raise BadInput(f"unknown augmentation {word!r}: {did_you_mean(step, ['none', *STEPS])} ({example})")
    make, defaults, meaning, maximum = STEPS[step]
    numbers = [float(number) for number in parts[2].split("-")] if parts and parts[2] else []
    if parts is None or len(numbers) > len(defaults):
        example = f"{step}{'-'.join(f'{number:g}' for number in defaults)}"
        raise BadInput(f"{word!r} cannot be read: write {example} (numbers: {meaning})")
    values = [*numbers, *defaults[len(numbers) :]]
    is_count = step in INTEGER_STEPS
    if values and (values[0] > maximum or (is_count and values[0] != int(values[0]))):
        kind = "a whole number" if is_count else "a number"
        raise BadInput(f"{word!r}: {step} takes {kind} up to {maximum:g} ({meaning})")
    if is_count:
        values[0] = int(values[0])
    return step, make(*values)
