"""RandAugment: a few operations out of fourteen, all of one magnitude, drawn for each image.

Cubuk, Zoph, Shlens and Le 2019, arXiv:1909.13719: N operations one after another, each any of the
fourteen with equal probability, all with the same magnitude M. M goes from 0 to 30; 30 is the full
strength of `OPERATIONS`. Operations with two directions take either with equal probability.

Every image draws its own operations, so a batch is grouped by operation. All geometric operations are
one gather, all that map levels are one lookup in a table of 256 entries.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.data.vision import color_ops
from torchstone.data.vision.geometric_ops import Augmentation, Draw, Images, resample
from torchstone.errors import BadInput

MAX_MAGNITUDE = 30
# What a strength of `share` (0 to 1, negative for the other direction) means, in units of its own.
# The order is that of the random numbers.
OPERATIONS: dict[str, Callable[[Tensor, int], Tensor] | None] = {
    "identity": None,
    "shear_x": lambda share, side: 0.3 * share,  # pixels per pixel
    "shear_y": lambda share, side: 0.3 * share,
    "translate_x": lambda share, side: (150 / 331 * side * share).trunc(),  # pixels
    "translate_y": lambda share, side: (150 / 331 * side * share).trunc(),
    "rotate": lambda share, side: 30 * share,  # degrees
    "brightness": lambda share, side: 1 + 0.9 * share,  # a factor
    "color": lambda share, side: 1 + 0.9 * share,
    "contrast": lambda share, side: 1 + 0.9 * share,
    "sharpness": lambda share, side: 1 + 0.9 * share,
    "posterize": lambda share, side: 8 - (4 * share.abs()).round(),  # bits
    "solarize": lambda share, side: 255 * (1 - share.abs()),  # the level it begins at
    "autocontrast": lambda share, side: share,
    "equalize": lambda share, side: share,
}
NAMES = tuple(OPERATIONS)
TABLE_OPS = ("brightness", "contrast", "posterize", "solarize", "autocontrast", "equalize")
GEOMETRIC_OPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def randaugment(count: int = 2, magnitude: float = 9) -> Augmentation:
    """`count` operations of `magnitude` per image; float images are rounded to integer levels.

    Returns uint8 images.

    Raises:
        BadInput: a magnitude beyond 0 to 30.
    """
    if count < 1 or not 0 <= magnitude <= MAX_MAGNITUDE:
        raise BadInput(
            f"randaugment takes 1 or more operations of a magnitude from 0 to {MAX_MAGNITUDE}, "
            f"not {count} of {magnitude:g}"
        )

    def apply(images: Images, draw: Draw) -> Images:
        images = to_uint8(images)
        for numbers in draw(count, 2).unbind(1):
            choice, direction = numbers.unbind(1)
            share = torch.where(direction < 0.5, -1.0, 1.0) * (magnitude / MAX_MAGNITUDE)
            images = apply_operations(images, (choice * len(NAMES)).long(), share)
        return images

    return apply


def to_uint8(images: Images) -> Images:
    """In the 256 levels that tables have."""
    return images.round().clamp(0, 255).to(torch.uint8) if images.is_floating_point() else images


def apply_operations(images: Images, operation: Tensor, share: Tensor) -> Images:
    """One operation on each of (uint8) `images`: `NAMES[operation]`, by `share` of its full strength."""
    counts = torch.bincount(operation, minlength=len(NAMES)).tolist()  # the only wait for the device
    groups = dict(zip(NAMES, operation.argsort(stable=True).split(counts), strict=True))
    images = images.clone()
    rows = torch.cat([groups[name] for name in GEOMETRIC_OPS])
    if len(rows):
        matrices = [affine_matrix(name, share[groups[name]], images.shape) for name in GEOMETRIC_OPS]
        images[rows] = resample(images[rows], torch.cat(matrices))
    rows = torch.cat([groups[name] for name in TABLE_OPS])
    if len(rows):
        selected = images[rows]
        groups_of_images = iter(selected.split([len(groups[name]) for name in TABLE_OPS]))
        tables = [
            getattr(color_ops, name)(group, operation_amount(name, share[groups[name]], 0))
            for name in TABLE_OPS
            if len(group := next(groups_of_images))
        ]
        images[rows] = color_ops.apply_table(selected, torch.cat(tables))
    for name, function in (("color", color_ops.saturate), ("sharpness", color_ops.sharpen)):
        rows = groups[name]
        if len(rows):
            images[rows] = function(images[rows], operation_amount(name, share[rows], 0))
    return images


def operation_amount(name: str, share: Tensor, side: int) -> Tensor:
    """`share` of the full strength in the operation's own units."""
    convert = OPERATIONS[name]
    return share if convert is None else convert(share, side)


def affine_matrix(name: str, share: Tensor, shape: torch.Size) -> Tensor:
    """Where the new pixels come from, (images, 2, 3), for `resample`. Rotations are about the center,
    shears about the upper left corner."""
    by = operation_amount(name, share, shape[3] if name.endswith("x") else shape[2])
    matrix = torch.eye(2, 3, device=share.device).repeat(len(share), 1, 1)
    if name == "rotate":
        cos, sin = torch.deg2rad(by).cos(), torch.deg2rad(by).sin()
        x, y = shape[3] / 2, shape[2] / 2
        matrix[:, 0] = torch.stack([cos, -sin, x - x * cos + y * sin], 1)
        matrix[:, 1] = torch.stack([sin, cos, y - x * sin - y * cos], 1)
    elif name.startswith("shear"):
        axis = int(name == "shear_y")
        matrix[:, axis, 1 - axis] = by
    else:
        matrix[:, int(name == "translate_y"), 2] = -by
    return matrix
