"""Random geometric operations on whole batches of images, on their device.

An augmentation is a function `(images, draw) -> images`. `images` is (batch, channel, height, width)
on the 0..255 scale, uint8 or float, before normalization, so that filling with 0 is background.
`draw(*shape)` gives uniform numbers in [0, 1), shaped (batch, *shape), on the images' device. What
happens to an image depends on its own pixels and numbers alone, not on the rest of the batch.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from torchstone.errors import BadInput

Images = Shaped[Tensor, "batch channel height width"]
Draw = Callable[..., Tensor]
Augmentation = Callable[[Tensor, Draw], Tensor]


def crop(padding: int, mode: str = "reflect") -> Augmentation:
    """Random crop: pads each side by `padding` pixels (`reflect` or `zero`), then crops to the old size.

    As for CIFAR in He et al. 2015 (arXiv:1512.03385), there with zeros. All (2 padding + 1)² offsets
    are equally likely.
    """
    if mode not in ("reflect", "zero"):
        raise BadInput(f"unknown padding {mode!r}: known: reflect, zero")

    def apply(images: Images, draw: Draw) -> Images:
        if mode == "zero":
            padded = functional.pad(images, (padding,) * 4)
        else:
            for axis in (2, 3):  # by index: torch's own reflection refuses uint8
                images = images.index_select(axis, _reflect_indices(images, axis, padding))
            padded = images
        height, width = (side - 2 * padding for side in padded.shape[2:])
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        top, left = (draw(2) * (2 * padding + 1)).long().unbind(1)
        return windows[torch.arange(len(padded), device=padded.device), :, top, left]

    return apply


def _reflect_indices(images: Tensor, axis: int, padding: int) -> Tensor:
    last = images.shape[axis] - 1
    if padding > last:
        raise BadInput(f"cannot reflect {padding} pixels of an image {last + 1} wide: pad less")
    indices = torch.arange(-padding, last + padding + 1, device=images.device).abs()
    return last - (last - indices).abs()


def shift(max_pixels: int) -> Augmentation:
    """Translates each image by whole pixels, up to `max_pixels` either way; background enters."""
    return crop(max_pixels, mode="zero")


def flip() -> Augmentation:
    """Mirrors each image left to right with probability one half."""

    def apply(images: Images, draw: Draw) -> Images:
        return torch.where(draw(1, 1, 1) < 0.5, images.flip(3), images)

    return apply


def affine(degrees: float, scale: float, translate: float) -> Augmentation:
    """Rotates by up to ±`degrees`, scales by a factor between 1 - `scale` and 1 + `scale`, and translates
    by up to ±`translate` of the side; bilinear, background enters. Returns float images (0..255)."""

    def apply(images: Images, draw: Draw) -> Images:
        turn, size, right, down = (2 * draw(4) - 1).unbind(1)
        turn, size = turn * math.radians(degrees), 1 + size * scale
        height, width = images.shape[2:]
        cos, sin = turn.cos() / size, turn.sin() / size
        # Row by row: where in the old image (−1..1) each new pixel comes from. The ratio of the sides
        # keeps a rotation a rotation when the image is not square.
        theta = torch.stack(
            [
                torch.stack([cos, -sin * (height / width), 2 * translate * right], 1),
                torch.stack([sin * (width / height), cos, 2 * translate * down], 1),
            ],
            1,
        )
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(images.float(), grid, align_corners=False)

    return apply


def resample(images: Images, matrix: Float[Tensor, "batch 2 3"]) -> Images:
    """Each new pixel is the old one nearest to `matrix` · (x, y, 1); background enters.

    x and y are in pixels from the image's upper left corner, so a pixel's center is half a pixel in.
    """
    height, width = images.shape[2:]
    x = torch.arange(0.5, width, device=images.device)
    y = torch.arange(0.5, height, device=images.device)[:, None]
    (a, b, c), (d, e, f) = (row.unbind(1) for row in matrix[..., None, None].unbind(1))
    column, row = (a * x + b * y + (c - 0.5)).round_(), (d * x + e * y + (f - 0.5)).round_()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row * width + column).mul_(inside).long().flatten(1)[:, None]
    pixels = images.flatten(2).gather(2, index.expand(-1, images.shape[1], -1))
    return (pixels * inside.flatten(1)[:, None]).view_as(images)


ATTEMPTS = 10  # at a rectangle that lies inside the image


def rectangle_mask(
    top: Tensor, left: Tensor, height: Tensor, width: Tensor, shape: torch.Size
) -> Bool[Tensor, "batch 1 height width"]:
    """Masks of rectangles (corner and sides in whole pixels, one per image) in images of `shape`."""
    y = torch.arange(shape[2], device=top.device)[:, None]
    x = torch.arange(shape[3], device=top.device)
    top, left, height, width = (each.view(-1, 1, 1, 1) for each in (top, left, height, width))
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def erase(
    probability: float, area: tuple[float, float] = (0.02, 0.33), ratio: tuple[float, float] = (0.3, 1 / 0.3)
) -> Augmentation:
    """Random erasing: with `probability` a rectangle of an image is filled with noise, 0 to 255.

    Zhong et al. 2017 (arXiv:1708.04896, algorithm 1). Its area as a share of the image's is uniform, its
    ratio of height to width log-uniform. A rectangle that does not fit is drawn again, `ATTEMPTS` times
    at most; then the image stays as it is.
    """

    def apply(images: Images, draw: Draw) -> Images:
        height, width = images.shape[2:]
        uniform, seed = draw(2).unbind(1)
        size, shape, down, right = draw(ATTEMPTS, 4).unbind(2)
        size = (area[0] + size * (area[1] - area[0])) * (height * width)
        low, high = math.log(ratio[0]), math.log(ratio[1])
        shape = (low + shape * (high - low)).exp()
        tall, wide = (size * shape).sqrt().round(), (size / shape).sqrt().round()
        fits = (tall < height) & (wide < width) & (tall >= 1) & (wide >= 1)
        rows = ((uniform < probability) & fits.any(1)).nonzero(as_tuple=True)[0]
        first = fits[rows].int().argmax(1, keepdim=True)
        tall, wide, down, right = (e[rows].gather(1, first)[:, 0] for e in (tall, wide, down, right))
        top = (down * (height - tall + 1)).floor()
        left = (right * (width - wide + 1)).floor()
        selected = images[rows]
        mask = rectangle_mask(top, left, tall, wide, images.shape)
        erased = torch.where(mask, hash_noise(seed[rows], selected), selected)
        return images.index_copy(0, rows, erased)

    return apply


def hash_noise(seed: Float[Tensor, " batch"], images: Images) -> Images:
    """Integers 0 to 255 in the shape of `images`, from one number in [0, 1) per image.

    A 32-bit finalizer (Appleby's, of MurmurHash3) of the pixel's index: drawing each pixel would cost
    more than all else.
    """
    mask = 0xFFFFFFFF
    indices = torch.arange(images[0].numel(), device=images.device) if len(images) else seed.long()
    word = (seed.double() * 2**32).long()[:, None] ^ (indices * 0x9E3779B1 & mask)
    for factor, by in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        word = ((word ^ (word >> by)) * factor) & mask
    return ((word >> 16) & 255).view(images.shape).to(images.dtype)
