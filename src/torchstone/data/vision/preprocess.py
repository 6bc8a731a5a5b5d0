"""Preprocessing of one image: decode upright and opaque, fit to a size, frame like the training images."""

import contextlib
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped, UInt8
from PIL import Image, ImageFile, ImageFilter, ImageOps, UnidentifiedImageError
from torch import Tensor

from torchstone.errors import BadInput

# What decoders raise on damaged data, as observed; a bug of ours should not pass for damaged data.
DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, IndexError, KeyError, TypeError, RuntimeError),
    *(struct.error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError),
)

ORIENTATION = 0x0112  # EXIF's tag
# how 16 bits a color are stored: how to read the high bytes, and the low ones; N is the machine's own order
ORDERS = {"B": "BL", "L": "LB", "N": "LB" if sys.byteorder == "little" else "BL"}
DEEP_COLOR = {
    f"{mode};16{order}": [f"{mode};16{each}" for each in halves]
    for mode in ("RGB", "RGBA")
    for order, halves in ORDERS.items()
}
GRAY_ALPHA = "LA;16B"  # of PNG: gray and opacity, of 16 bits each
PAGED = ("GIF", "TIFF", "PNG", "WEBP", "AVIF")  # formats whose further images are frames or pages
# the stored values that become black and white; None: those of the type, 0 to 65,535, and of floats 0 to 1
Levels = Sequence[float] | None


def decode(image: Image.Image, channels: int, levels: Levels = None) -> Image.Image:
    """Upright (EXIF), transparency on white, more than 8 bits to 8 by `levels`, then `L` or `RGB`."""
    values = None if levels is None else deep_values(image)
    if values is not None and levels is not None:
        low, high = levels
        scaled = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
        turn = image.getexif().get(ORIENTATION)
        image = Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))
        if turn:
            image.getexif()[ORIENTATION] = turn
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        array = np.asarray(image)
        array = array * 255 if array.max(initial=0) <= 1 else array
        image = Image.fromarray(array.clip(0, 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def stored_mode(image: Image.Image) -> str:
    """How the pixels of an image that was just opened are stored, by Pillow's name of a raw mode, such as
    `L;2` where two bits are read as `L`; the mode of one that is no file."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return image.mode
    arguments = image.tile[0].args
    return arguments if isinstance(arguments, str) else str((*(arguments or ()), "")[0])


def is_deep(image: Image.Image) -> bool:
    """Whether an image that was just opened has more than 8 bits a value."""
    stored = stored_mode(image)
    return image.mode == "F" or image.mode.startswith("I") or stored in DEEP_COLOR or stored == GRAY_ALPHA


def deep_values(image: Image.Image) -> Shaped[np.ndarray, "height width *channel"] | None:
    """The stored values of an image of more than 8 bits: gray, or 16 bits a color; None of others.

    Raises:
        BadInput: a value is NaN or infinite.
    """
    if not is_deep(image):
        return None
    if image.mode in ("RGB", "RGBA"):
        # Pillow has 8 bits for a color: the high bytes, and the low ones by reading in the other order; gray
        # and opacity of 16 bits are the four bytes of a color of 8
        stored = stored_mode(image)
        if stored == GRAY_ALPHA:
            quarters = _read_as(image, "RGBA").astype(np.int32)
            values = 256 * quarters[..., ::2] + quarters[..., 1::2]
        else:
            high, low = (_read_as(image, order).astype(np.int32) for order in DEEP_COLOR[stored])
            values = 256 * high + low
        if image.mode == "RGBA":  # on white
            share = values[..., -1:] / 65535
            values = values[..., :-1] * share + 65535 * (1 - share)
        return values[..., 0] if values.shape[-1] == 1 else values
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise BadInput("it has pixels that are not finite")
    return values


def _read_as(image: Image.Image, raw_mode: str) -> np.ndarray:
    """The pixels of an image that was just opened, decoded anew by another of Pillow's raw modes."""
    assert isinstance(image, ImageFile.ImageFile)
    assert image.fp is not None
    image.fp.seek(0)
    with Image.open(io.BytesIO(image.fp.read())) as again:
        assert isinstance(again, ImageFile.ImageFile)
        again.tile = [
            tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:]))
            for tile in again.tile
        ]
        return np.asarray(again)


def file_mode(image: Image.Image) -> str:
    """The color mode of an image that was just opened, and whether it is the first of several."""
    is_first = image.format in PAGED and getattr(image, "is_animated", False)
    return image.mode + " (the first of several images in a file)" * is_first


def measure_levels(images: Iterable[np.ndarray | None]) -> Levels:
    """The least and the largest value of images' `deep_values`; None if there are none."""
    extremes = [(float(v.min()), float(v.max())) for v in images if v is not None and v.size]
    return (min(low for low, _ in extremes), max(high for _, high in extremes)) if extremes else None


def describe_levels(levels: Levels) -> str:
    """What becomes of values of more than 8 bits, for a data set's description."""
    return (
        "" if levels is None else f"; values of more than 8 bits: {levels[0]:g} is black, {levels[1]:g} white"
    )


def load_upright(
    file: Image.Image | str | Path, channels: int, levels: Levels = None
) -> tuple[Image.Image, str]:
    """(`decode` of an image or image file, its name for messages).

    Raises:
        BadInput: the file is missing or corrupt.
    """
    if isinstance(file, Image.Image):
        name = "the image"
        with report_unreadable(name):
            return decode(file, channels, levels), name
    name = str(file)
    if not Path(file).is_file():
        raise BadInput(f"{name} {'is no file' if Path(file).exists() else 'does not exist'}")
    with report_unreadable(name), Image.open(file) as opened:
        return decode(opened, channels, levels), name


def fit_to_square(image: Image.Image, size: int, ink: bool) -> UInt8[np.ndarray, "channel size size"]:
    """Fit an image into `size` × `size`, antialiased.

    Ink: padded to `size` with background as LeCun et al. 1998 did, if at least 3/4 of it, else resized
    whole. Other images: the shorter side resized to `size`, then center-cropped.
    """
    longer = max(image.size)
    if not ink:
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    elif image.size != (size, size):
        pad_only = 0.75 * size <= longer <= size
        side = size if pad_only else longer
        square = Image.new(image.mode, (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square if pad_only else square.resize((size, size), Image.Resampling.BILINEAR)
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def fit_as_stated(
    image: Image.Image, size: int, framing: Mapping[str, Any]
) -> UInt8[np.ndarray, "channel size size"]:
    """Fit an image as the folder of a published model states it.

    Args:
        framing: `resize`, the length of the shorter side, or [height, width], or None; `resample`, Pillow's
            number of a filter; `crop`, [height, width] of the middle, or None.

    Raises:
        BadInput: the result is not `size` × `size`.
    """
    resize, crop = framing["resize"], framing["crop"]
    if isinstance(resize, int):
        shorter, longer = sorted(image.size)
        longer = int(resize * longer / shorter)
        resize = [longer, resize] if image.height > image.width else [resize, longer]
    if resize is not None:
        image = image.resize((resize[1], resize[0]), framing["resample"])
    if crop is not None:
        left, top = (image.width - crop[1]) // 2, (image.height - crop[0]) // 2
        if min(left, top) < 0:
            raise BadInput(f"it has {image.width}×{image.height} pixels, less than the model cuts out")
        image = image.crop((left, top, left + crop[1], top + crop[0]))
    if image.size != (size, size):
        raise BadInput(
            f"it has {image.width}×{image.height} pixels, but the model takes {size}×{size}, and its folder "
            "does not say how to resize it"
        )
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def preprocess(file: Image.Image | str | Path, metadata: dict) -> UInt8[Tensor, "1 channel size size"]:
    """An image from anywhere, framed like the training images.

    Where the training images are ink on an empty background, a photo or scan of any size, dark on light
    or light on dark, is converted to that: lighting evened, noise and specks removed, the ink's longer
    side scaled to `metadata["box"]` of the frame and its center of mass centered (as MNIST was made).

    Raises:
        BadInput: an image that is missing, corrupt or blank.
    """
    image, name = load_upright(file, metadata["channels"], metadata.get("levels"))
    if metadata.get("framing"):
        with report_unreadable(name):
            return torch.from_numpy(fit_as_stated(image, metadata["size"], metadata["framing"]))[None]
    if metadata["ink"] and not _is_framed(np.asarray(image), metadata):
        return torch.from_numpy(_extract_ink(image, metadata, name))[None, None]
    return torch.from_numpy(fit_to_square(image, metadata["size"], metadata["ink"]))[None]


def longer_sides(images: UInt8[np.ndarray, "n 1 height width"]) -> Int64[np.ndarray, " n"]:
    """The longer side of the bounding box around the ink of each image; 0 where there is none."""
    ink = images[:, 0]

    def extents(axis: int) -> Int64[np.ndarray, " n"]:
        is_used: Bool[np.ndarray, "n lines"] = np.asarray(ink.any(axis))
        last = is_used.shape[1] - 1 - is_used[:, ::-1].argmax(1)
        return np.where(is_used.any(1), last - is_used.argmax(1) + 1, 0)

    return np.maximum(extents(2), extents(1))


def _is_framed(array: np.ndarray, metadata: dict) -> bool:
    """Whether an image has the training framing already: its side, black corners, ink of its size."""
    if array.shape not in {(metadata["native"],) * 2, (metadata["size"],) * 2}:
        return False
    if array[[0, 0, -1, -1], [0, -1, 0, -1]].any() or array.max() < 128:
        return False
    framed = fit_to_square(Image.fromarray(array), metadata["size"], True)
    share = int(longer_sides(framed[None])[0]) / metadata["size"]
    return abs(share / metadata["box"] - 1) <= 0.25


def _extract_ink(image: Image.Image, metadata: dict, name: str) -> UInt8[np.ndarray, "size size"]:
    """The ink of a photo or scan, white on black, scaled and centered like the training images."""
    from scipy import ndimage

    image = image.copy()
    image.thumbnail((512, 512), Image.Resampling.BOX)
    if min(image.size) >= 96:
        image = image.filter(ImageFilter.MedianFilter(3))
    gray = np.asarray(image, dtype=np.float64)
    contrast, mask = _contrast(gray, fit_surface=True)
    if not mask.any():  # thick ink on a close crop bends the fitted background
        contrast, mask = _contrast(gray, fit_surface=False)
    if not mask.any():
        raise BadInput(f"{name} shows no ink on an even ground; is it blank?")
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    mask = (areas >= 0.04 * areas.max())[labels]  # specks go; the parts of a broken stroke stay
    top, bottom = np.flatnonzero(mask.any(1))[[0, -1]]
    left, right = np.flatnonzero(mask.any(0))[[0, -1]]
    size, longer = metadata["size"], max(bottom - top, right - left) + 1
    # The mask ends where ink is half as dark; in training the box ends where the soft edge does,
    # a little further on: half a pixel of the frame in all, as measured on MNIST.
    ink_side = max(metadata["box"] * size - 0.5, 1)
    margin_mask = ndimage.binary_dilation(mask, iterations=1 + int(longer / (2 * ink_side)))
    soft = np.where(margin_mask, contrast, 0) / np.percentile(contrast[mask], 75)
    soft = ((soft - 0.05) / 0.95).clip(0, 1).astype(np.float32)  # residual noise is not ink
    edge = longer / ink_side / 2
    height, width = bottom - top + 1 + 2 * edge, right - left + 1 + 2 * edge
    margin = int(edge) + 2
    canvas = Image.fromarray(np.pad(soft, margin))
    corner = (left + margin - edge, top + margin - edge)
    patch_size = (
        min(max(round(width * ink_side / longer), 1), size),  # rounding up must not leave the frame
        min(max(round(height * ink_side / longer), 1), size),
    )
    patch = canvas.resize(
        patch_size, Image.Resampling.BICUBIC, box=(*corner, corner[0] + width, corner[1] + height)
    )
    ink = np.asarray(patch).clip(0, 1)
    ink = ink / ink.max()
    frame = np.zeros((size, size), dtype=np.uint8)
    row, column = _centered_corner(ink, size)
    frame[row : row + ink.shape[0], column : column + ink.shape[1]] = (ink * 255).round()
    return frame


def _contrast(gray: np.ndarray, fit_surface: bool) -> tuple[np.ndarray, np.ndarray]:
    """(contrast of each pixel with the background, mask of the ink: empty if the image is blank)."""
    mask = np.zeros(gray.shape, dtype=bool)
    for _ in range(3):  # the background, the ink that stands out from it, the background without that ink
        residue = gray - _background(gray, mask, fit_surface)
        # Ink is the minority and far from its background, so the skew has its sign.
        contrast = np.maximum(residue * (1 if (residue**3).sum() >= 0 else -1), 0)
        mask = contrast > _otsu_threshold(contrast)
    if mask.any() and not mask.all():
        noise = 1.4826 * np.median(np.abs(residue[~mask]))
        mask &= contrast[mask].mean() - contrast[~mask].mean() >= max(20, 4 * noise)
    return contrast, mask


def _background(gray: np.ndarray, ink: np.ndarray, fit_surface: bool) -> np.ndarray | float:
    """The paper without the ink.

    A quadratic surface by least absolute deviations (iteratively reweighted least squares), which few
    pixels cannot pull away; on small images, or without `fit_surface`, the median of the border.
    """
    height, width = gray.shape
    if not fit_surface or min(height, width) < 64:
        return float(np.median(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])))
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1)
    step = max(1, min(height, width) // 64)
    design, values = terms[::step, ::step].reshape(-1, 6), gray[::step, ::step].ravel()
    weights = base = 1.0 - ink[::step, ::step].ravel()
    for _ in range(10):
        weighted = design * weights[:, None]
        surface = np.linalg.lstsq(weighted.T @ design, weighted.T @ values, rcond=None)[0]
        weights = base / (np.abs(values - design @ surface) + 1)
    return terms @ surface


def _otsu_threshold(values: np.ndarray) -> float:
    """The threshold that separates the values best into two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centers = (edges[:-1] + edges[1:]) / 2
    below, mass = counts.cumsum(), (counts * centers).cumsum()
    above = below[-1] - below
    between = (mass[-1] * below - mass * below[-1]) ** 2 / np.maximum(below * above, 1)
    best = np.flatnonzero(between == between.max())  # a gap between the classes ties: its middle
    return float(edges[(best[0] + best[-1]) // 2 + 1])


def _centered_corner(ink: np.ndarray, size: int) -> list[int]:
    """Top and left that center the center of mass, with the whole patch inside.

    Measured on MNIST, the center is that of pixel `size // 2`, half a pixel below and right."""
    corner = []
    for axis in (0, 1):
        mass = ink.sum(1 - axis)
        center = (mass * (np.arange(len(mass)) + 0.5)).sum() / mass.sum()
        corner.append(int(np.clip(round(size / 2 + 0.5 - center), 0, size - len(mass))))
    return corner


@contextlib.contextmanager
def report_unreadable(name: str) -> Generator[None, None, None]:
    """Turn what decoders raise on damaged data into a `BadInput` that names the file."""
    try:
        yield
    except BadInput as error:
        if str(error).startswith("it has "):
            raise BadInput(f"{name} cannot be used: {error}") from None
        raise
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        reason = "no known image format" if isinstance(error, UnidentifiedImageError) else reason
        raise BadInput(f"{name} is not a readable image ({reason}); replace or remove it") from None
