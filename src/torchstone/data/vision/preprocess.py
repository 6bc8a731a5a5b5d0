"""One picture: decoded upright and opaque, fitted to a size, framed as the training pictures were."""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError
from torch import Tensor

from torchstone.errors import BadInput

# What decoders raise on damaged data, as met in practice; a bug of ours should not pass for it.
DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, IndexError, KeyError, TypeError, RuntimeError),
    *(struct.error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError),
)


def decode(image: Image.Image, channels: int) -> Image.Image:
    """Upright (EXIF), transparency laid on white, 16 bits to 8, then `L` or `RGB`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        array = np.asarray(image)
        array = array * 255 if array.max(initial=0) <= 1 else array
        image = Image.fromarray(array.clip(0, 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def fit_to_square(image: Image.Image, size: int, ink: bool) -> UInt8[np.ndarray, "channel size size"]:
    """Ink: padded to `size` with background as LeCun et al. 1998 did, if at least 3/4 of it, else
    resized whole. Others: the shorter side resized to `size`, then the centre. Antialiased."""
    longer = max(image.size)
    if not ink:
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    elif image.size != (size, size):
        pads = 0.75 * size <= longer <= size
        side = size if pads else longer
        framed = Image.new(image.mode, (side, side))
        framed.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = framed if pads else framed.resize((size, size), Image.Resampling.BILINEAR)
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def preprocess(picture: Image.Image | str | Path, metadata: dict) -> UInt8[Tensor, "1 channel size size"]:
    """A picture from anywhere, framed as the training pictures were.

    Where the training pictures are ink on an empty ground, a photo or scan of any size, dark on light
    or light on dark, is made so: lighting evened, noise and specks dropped, the ink's longer side scaled
    to `metadata["box"]` of the frame and its centre of mass put in the middle (as MNIST was made). Raises
    `BadInput` for what is missing, corrupt or blank.
    """
    name = "the picture" if isinstance(picture, Image.Image) else str(picture)
    if not isinstance(picture, Image.Image) and not Path(picture).is_file():
        raise BadInput(f"{name} does not exist" if not Path(picture).exists() else f"{name} is no file")
    with report_unreadable(name):
        if isinstance(picture, Image.Image):
            image = decode(picture, metadata["channels"])
        else:
            with Image.open(picture) as opened:
                image = decode(opened, metadata["channels"])
    if metadata["ink"] and not _is_framed(np.asarray(image), metadata):
        return torch.from_numpy(_extract_ink(image, metadata, name))[None, None]
    return torch.from_numpy(fit_to_square(image, metadata["size"], metadata["ink"]))[None]


def longer_side(image: np.ndarray) -> int:
    """The longer side of the box around the ink of a (1, height, width) picture."""
    rows, columns = (np.flatnonzero(image[0].any(axis)) for axis in (1, 0))
    return int(max(np.ptp(rows), np.ptp(columns))) + 1 if len(rows) else 0


def _is_framed(array: np.ndarray, metadata: dict) -> bool:
    """Whether a picture is in the training framing already: its side, black corners, ink of its size."""
    if array.shape not in {(metadata["native"],) * 2, (metadata["size"],) * 2}:
        return False
    if array[[0, 0, -1, -1], [0, -1, 0, -1]].any() or array.max() < 128:
        return False
    share = longer_side(fit_to_square(Image.fromarray(array), metadata["size"], True)) / metadata["size"]
    return abs(share / metadata["box"] - 1) <= 0.25


def _extract_ink(image: Image.Image, metadata: dict, name: str) -> UInt8[np.ndarray, "size size"]:
    from scipy import ndimage

    image = image.copy()
    image.thumbnail((512, 512), Image.Resampling.BOX)
    if min(image.size) >= 96:
        image = image.filter(ImageFilter.MedianFilter(3))
    grey = np.asarray(image, dtype=np.float64)
    contrast, mask = _contrast(grey, even=True)
    if not mask.any():  # thick ink on a close crop bends an even ground
        contrast, mask = _contrast(grey, even=False)
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
    shown = max(metadata["box"] * size - 0.5, 1)
    near = ndimage.binary_dilation(mask, iterations=1 + int(longer / (2 * shown)))
    soft = np.where(near, contrast, 0) / np.percentile(contrast[mask], 75)
    soft = ((soft - 0.05) / 0.95).clip(0, 1).astype(np.float32)  # residual noise is not ink
    edge = longer / shown / 2
    height, width = bottom - top + 1 + 2 * edge, right - left + 1 + 2 * edge
    margin = int(edge) + 2
    canvas = Image.fromarray(np.pad(soft, margin))
    corner = (left + margin - edge, top + margin - edge)
    small = (
        max(round(width * shown / longer), 1),
        max(round(height * shown / longer), 1),
    )
    patch = canvas.resize(
        small,
        Image.Resampling.BICUBIC,
        box=(*corner, corner[0] + width, corner[1] + height),
    )
    ink = np.asarray(patch).clip(0, 1)
    ink = ink / ink.max()
    framed = np.zeros((size, size), dtype=np.uint8)
    row, column = (int(p) for p in _centered_corner(ink, size))
    framed[row : row + ink.shape[0], column : column + ink.shape[1]] = (ink * 255).round()
    return framed


def _contrast(grey: np.ndarray, even: bool) -> tuple[np.ndarray, np.ndarray]:
    """(how far each pixel stands out from its ground, where that is ink: nowhere if blank)."""
    mask = np.zeros(grey.shape, dtype=bool)
    for _ in range(3):  # the ground, the ink that stands out from it, the ground without that ink
        residue = grey - _background(grey, mask, even)
        # Ink is the minority and far from its ground, so the skew has its sign.
        contrast = np.maximum(residue * (1 if (residue**3).sum() >= 0 else -1), 0)
        mask = contrast > _otsu_threshold(contrast)
    if mask.any() and not mask.all():
        noise = 1.4826 * np.median(np.abs(residue[~mask]))
        mask &= contrast[mask].mean() - contrast[~mask].mean() >= max(20, 4 * noise)
    return contrast, mask


def _background(grey: np.ndarray, ink: np.ndarray, even: bool) -> np.ndarray | float:
    """The paper without the ink: a quadratic surface by least absolute deviations (reweighted squares),
    which few pixels cannot pull away; on small pictures, or not `even`, the median of the border."""
    height, width = grey.shape
    if not even or min(height, width) < 64:
        return float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1)
    step = max(1, min(height, width) // 64)
    seen, values = terms[::step, ::step].reshape(-1, 6), grey[::step, ::step].ravel()
    weights = base = 1.0 - ink[::step, ::step].ravel()
    for _ in range(10):
        weighted = seen * weights[:, None]
        surface = np.linalg.lstsq(weighted.T @ seen, weighted.T @ values, rcond=None)[0]
        weights = base / (np.abs(values - seen @ surface) + 1)
    return terms @ surface


def _otsu_threshold(values: np.ndarray) -> float:
    """The threshold that parts the values best into two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, mass = counts.cumsum(), (counts * middles).cumsum()
    above = below[-1] - below
    between = (mass[-1] * below - mass * below[-1]) ** 2 / np.maximum(below * above, 1)
    best = np.flatnonzero(between == between.max())  # a gap between the classes ties: its middle
    return float(edges[(best[0] + best[-1]) // 2 + 1])


def _centered_corner(ink: np.ndarray, size: int) -> list[int]:
    """Top and left that put the centre of mass in the middle, the whole patch staying inside.

    Measured on MNIST, the middle is that of pixel `size // 2`, half a pixel below and right."""
    places = []
    for axis in (0, 1):
        mass = ink.sum(1 - axis)
        centre = (mass * (np.arange(len(mass)) + 0.5)).sum() / mass.sum()
        places.append(int(np.clip(round(size / 2 + 0.5 - centre), 0, size - len(mass))))
    return places


@contextlib.contextmanager
def report_unreadable(name: str) -> Generator[None, None, None]:
    try:
        yield
    except BadInput:
        raise
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        reason = "no known image format" if isinstance(error, UnidentifiedImageError) else reason
        raise BadInput(f"{name} is not a readable picture ({reason}); replace or remove it") from None
