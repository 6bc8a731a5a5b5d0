"""Random changes to whole batches of pictures, on their device.

An augmentation is a function `(images, draw) -> images`. `images` is (batch, channel, height, width)
on the 0..255 scale, uint8 or float, before normalisation, so that filling with 0 is background.
`draw(*shape)` gives uniform numbers in [0, 1), shaped (batch, *shape), on the images' device.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional

from torchstone.errors import BadInput, nearest

Images = Shaped[Tensor, "batch channel height width"]
Draw = Callable[..., Tensor]
Augmentation = Callable[[Tensor, Draw], Tensor]


def crop(padding: int, mode: str = "reflect") -> Augmentation:
    """Pads each side by `padding` pixels (`reflect` or `zero`), then cuts the old size out at random.

    As for CIFAR in He et al. 2015 (arXiv:1512.03385), there with zeros. All (2 padding + 1)² places
    are equally likely.
    """
    if mode not in ("reflect", "zero"):
        raise BadInput(f"unknown padding {mode!r}: known: reflect, zero")

    def cropped(images: Images, draw: Draw) -> Images:
        if mode == "zero":
            padded = functional.pad(images, (padding,) * 4)
        else:
            for axis in (2, 3):  # by index: the library's own reflection refuses uint8
                images = images.index_select(axis, _reflected(images, axis, padding))
            padded = images
        height, width = (side - 2 * padding for side in padded.shape[2:])
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = (draw(2) * (2 * padding + 1)).long().unbind(1)
        return windows[torch.arange(len(padded), device=padded.device), :, top, left]

    return cropped


def _reflected(images: Tensor, axis: int, padding: int) -> Tensor:
    last = images.shape[axis] - 1
    if padding > last:
        raise BadInput(f"cannot reflect {padding} pixels of a picture {last + 1} wide: pad less")
    places = torch.arange(-padding, last + padding + 1, device=images.device).abs()
    return last - (last - places).abs()


def shift(max_pixels: int) -> Augmentation:
    """Moves each picture by whole pixels, up to `max_pixels` either way; what enters is background."""
    return crop(max_pixels, mode="zero")


def flip() -> Augmentation:
    """Mirrors each picture left to right with probability one half."""

    def flipped(images: Images, draw: Draw) -> Images:
        return torch.where(draw(1, 1, 1) < 0.5, images.flip(3), images)

    return flipped


def affine(degrees: float, scale: float, translate: float) -> Augmentation:
    """Turns by up to ±`degrees`, scales by a factor between 1 - `scale` and 1 + `scale`, and moves by
    up to ±`translate` of the side; bilinear, background enters. Returns float images (0..255)."""

    def moved(images: Images, draw: Draw) -> Images:
        turn, size, right, down = (2 * draw(4) - 1).unbind(1)
        turn, size = turn * math.radians(degrees), 1 + size * scale
        height, width = images.shape[2:]
        cos, sin = turn.cos() / size, turn.sin() / size
        # Row by row: where on the old picture (−1..1) each new pixel comes from. The sides' ratio
        # keeps a turn a turn when the picture is not square.
        theta = torch.stack(
            [
                torch.stack([cos, -sin * (height / width), 2 * translate * right], 1),
                torch.stack([sin * (width / height), cos, 2 * translate * down], 1),
            ],
            1,
        )
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(images.float(), grid, align_corners=False)

    return moved


def light(contrast: float, brightness: float) -> Augmentation:
    """Multiplies what a pixel differs from its picture's mean by 1 ± `contrast`, and adds up to
    ±`brightness` of the scale. Returns float images (0..255)."""

    def lit(images: Images, draw: Draw) -> Images:
        factor, more = (2 * draw(2, 1, 1, 1) - 1).unbind(1)
        images = images.float()
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (1 + contrast * factor) + 255 * brightness * more
        return images.clamp_(0, 255)

    return lit


def hole(side: int) -> Augmentation:
    """Blackens a square of `side` pixels whose middle is anywhere (DeVries and Taylor 2017,
    arXiv:1708.04552)."""

    def holed(images: Images, draw: Draw) -> Images:
        height, width = images.shape[2:]
        middle = draw(2, 1, 1, 1)
        down = torch.arange(height, device=images.device)[:, None] + 0.5 - middle[:, 0] * height
        right = torch.arange(width, device=images.device) + 0.5 - middle[:, 1] * width
        return images.masked_fill((down.abs() < side / 2) & (right.abs() < side / 2), 0)

    return holed


def compose(*augmentations: Augmentation) -> Augmentation:
    """One after another, each with its own random numbers."""

    def composed(images: Images, draw: Draw) -> Images:
        for augmentation in augmentations:
            images = augmentation(images, draw)
        return images

    return composed


NAMED: dict[str, Callable[[], Augmentation | None]] = {
    "none": lambda: None,
    "shift2": lambda: shift(2),
    "affine": lambda: affine(degrees=10, scale=0.1, translate=0.06),
    "flip-crop4": lambda: compose(flip(), crop(4)),
    "rich": lambda: compose(flip(), affine(15, 0.2, 0.12), light(0.4, 0.15), hole(8)),
}


def from_name(name: str) -> Augmentation | None:
    """`none` (which is None), `shift2`, `affine` (10°, ±10 %, ±6 %), `flip-crop4`, or `rich` (flip,
    15°, ±20 %, ±12 %, light, a hole of 8 pixels), for networks that are told nothing of pictures."""
    if name not in NAMED:
        raise BadInput(f"unknown augmentation {name!r}: {nearest(name, NAMED)}")
    return NAMED[name]()
