"""Labelled pictures: read from any source, fitted to one size, and prepared alike for use later."""

import contextlib
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.streams import sources

IN_MEMORY = 2**30  # bytes; a larger set stays on disk and is decoded batch by batch
SAMPLE = 20_000  # pictures that mean, deviation and box are measured on, at most
THREADS = min(8, os.cpu_count() or 1)

# What decoders raise on damaged data, as met in practice; a bug of ours should not pass for it.
DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    RuntimeError,
)
DAMAGED += (struct.error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError)


@dataclass(frozen=True)
class Fitted:
    """Pictures on disk, decoded and fitted when asked for; a data set for `DataLoader`."""

    part: sources.Part
    size: int
    channels: int
    ink: bool

    def __len__(self) -> int:
        return len(self.part.labels)

    def load(self, i: int) -> tuple[np.ndarray, str]:
        """(uint8 (channel, size, size), the file's own mode); `BadInput` names what is corrupt."""
        with _opened(self.part, i) as image:
            return fit(decode(image, self.channels), self.size, self.ink), image.mode

    def __getitem__(self, i: int) -> Tensor | str:
        try:
            return torch.from_numpy(self.load(i)[0])
        except BadInput as error:
            return str(error)  # an exception would come out of a worker wrapped in its traceback


@dataclass(frozen=True, eq=False)
class Pictures:
    """One split: in memory, on the device of `labels`, or on disk (`Fitted`)."""

    labels: Int64[Tensor, " count"]
    images: UInt8[Tensor, "count channel height width"] | Fitted

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Shaped[Tensor, " batch"]) -> UInt8[Tensor, "batch channel height width"]:
        """The pictures at `index`, on the device of `labels`."""
        if isinstance(self.images, Tensor):
            return self.images.index_select(0, index.to(self.images.device))
        with ThreadPool(THREADS) as threads:
            loaded = threads.map(self.images.load, index.tolist())
        return torch.from_numpy(np.stack([array for array, _ in loaded])).to(self.labels.device)


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one source in three splits; `card` (JSON) is what `prepare` and `normalise` need:
    size, channels, ink, box (share of the side that ink fills), native (side before fitting), mean and
    std on the 0..1 scale, from the train split alone."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    val: Pictures
    test: Pictures
    card: dict
    note: str


def load_pictures(
    spec: str | Path, *, size: int, channels: int, device: torch.device | str = "cpu"
) -> PictureSet:
    """Pictures of `digits`, `mnist5k`, a folder, a zip file or `hf:NAME`, fitted to `size` x `size`.

    Up to `IN_MEMORY` bytes are decoded now and kept on `device`. Raises `BadInput` for what is missing,
    empty, corrupt or too small to split.
    """
    if channels not in (1, 3) or size < 1:
        raise BadInput(
            f"pictures have 1 or 3 channels and a positive size, not {channels} and {size}"
        )
    source = sources.read(str(spec))
    train = source.parts["train"]
    sides, clean = _survey(train)
    ink = channels == 1 and (clean if source.ink is None else source.ink)
    fitted = {split: Fitted(part, size, channels, ink) for split, part in source.parts.items()}
    total = sum(map(len, fitted.values())) * channels * size**2
    modes: Counter[str] = Counter()
    splits = {}
    for split, pictures in fitted.items():
        labels = torch.from_numpy(pictures.part.labels)
        if total <= IN_MEMORY:
            images, found = _decoded(pictures, f"reading {source.name} ({split})")
        else:
            images, found = pictures, _modes(pictures)
        modes.update(found)
        splits[split] = Pictures(labels, images)
    card = {"size": size, "channels": channels, "ink": ink} | _measured(splits["train"], ink)
    card["native"] = sides
    note = source.note
    if odd := {mode: n for mode, n in modes.items() if mode != ("L" if channels == 1 else "RGB")}:
        counts = ", ".join(f"{mode} {n}" for mode, n in sorted(odd.items()))
        note += f"; converted to {'L' if channels == 1 else 'RGB'}: {counts}"
    for split, pictures in splits.items():
        images = pictures.images
        images = images.to(device) if isinstance(images, Tensor) else images
        splits[split] = Pictures(pictures.labels.to(device), images)
    return PictureSet(source.name, source.classes, **splits, card=card, note=note)


def normalise(
    images: Shaped[Tensor, "batch channel height width"], card: dict
) -> Float[Tensor, "batch channel height width"]:
    """(x / 255 − mean) / std, channel by channel; `images` on the 0..255 scale, uint8 or float."""
    factor, offset = scale_and_offset(card, images.device)
    return (images * factor).add_(offset)


def scale_and_offset(card: dict, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
    """`normalise` as one multiplication and one addition; plain numbers for one channel."""
    factors = [1 / (255 * s) for s in card["std"]]
    offsets = [-m / s for m, s in zip(card["mean"], card["std"], strict=True)]
    if len(factors) == 1:
        return factors[0], offsets[0]
    shape = (1, len(factors), 1, 1)
    return torch.tensor(factors, device=device).view(shape), torch.tensor(
        offsets, device=device
    ).view(shape)


# --- one picture


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


def fit(image: Image.Image, size: int, ink: bool) -> UInt8[np.ndarray, "channel size size"]:
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


def prepare(picture: Image.Image | str | Path, card: dict) -> UInt8[Tensor, "1 channel size size"]:
    """A picture from anywhere, framed as the training pictures were.

    Where the training pictures are ink on an empty ground, a photo or scan of any size, dark on light
    or light on dark, is made so: lighting evened, noise and specks dropped, the ink's longer side scaled
    to `card["box"]` of the frame and its centre of mass put in the middle (as MNIST was made). Raises
    `BadInput` for what is missing, corrupt or blank.
    """
    name = "the picture" if isinstance(picture, Image.Image) else str(picture)
    if not isinstance(picture, Image.Image) and not Path(picture).is_file():
        raise BadInput(
            f"{name} does not exist" if not Path(picture).exists() else f"{name} is no file"
        )
    with _readable(name):
        if isinstance(picture, Image.Image):
            image = decode(picture, card["channels"])
        else:
            with Image.open(picture) as opened:
                image = decode(opened, card["channels"])
    if card["ink"] and not _framed(np.asarray(image), card):
        return torch.from_numpy(_inked(image, card, name))[None, None]
    return torch.from_numpy(fit(image, card["size"], card["ink"]))[None]


def _framed(array: np.ndarray, card: dict) -> bool:
    """Whether a picture is in the training framing already: its side, black corners, ink of its size."""
    if array.shape not in {(card["native"],) * 2, (card["size"],) * 2}:
        return False
    if array[[0, 0, -1, -1], [0, -1, 0, -1]].any() or array.max() < 128:
        return False
    share = _longer_side(fit(Image.fromarray(array), card["size"], True)) / card["size"]
    return abs(share / card["box"] - 1) <= 0.25


def _inked(image: Image.Image, card: dict, name: str) -> UInt8[np.ndarray, "size size"]:
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
    size, longer = card["size"], max(bottom - top, right - left) + 1
    # The mask ends where ink is half as dark; in training the box ends where the soft edge does,
    # a little further on: half a pixel of the frame in all, as measured on MNIST.
    shown = max(card["box"] * size - 0.5, 1)
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
    row, column = (int(p) for p in _placed(ink, size))
    framed[row : row + ink.shape[0], column : column + ink.shape[1]] = (ink * 255).round()
    return framed


def _contrast(grey: np.ndarray, even: bool) -> tuple[np.ndarray, np.ndarray]:
    """(how far each pixel stands out from its ground, where that is ink: nowhere if blank)."""
    mask = np.zeros(grey.shape, dtype=bool)
    for _ in range(
        3
    ):  # the ground, the ink that stands out from it, the ground without that ink, ...
        residue = grey - _ground(grey, mask, even)
        # Ink is the minority and far from its ground, so the skew has its sign.
        contrast = np.maximum(residue * (1 if (residue**3).sum() >= 0 else -1), 0)
        mask = contrast > _otsu(contrast)
    if mask.any() and not mask.all():
        noise = 1.4826 * np.median(np.abs(residue[~mask]))
        mask &= contrast[mask].mean() - contrast[~mask].mean() >= max(20, 4 * noise)
    return contrast, mask


def _placed(ink: np.ndarray, size: int) -> list[int]:
    """Top and left that put the centre of mass in the middle, the whole patch staying inside.

    Measured on MNIST, the middle is that of pixel `size // 2`, half a pixel below and right."""
    places = []
    for axis in (0, 1):
        mass = ink.sum(1 - axis)
        centre = (mass * (np.arange(len(mass)) + 0.5)).sum() / mass.sum()
        places.append(int(np.clip(round(size / 2 + 0.5 - centre), 0, size - len(mass))))
    return places


def _ground(grey: np.ndarray, ink: np.ndarray, even: bool) -> np.ndarray | float:
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


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts the values best into two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, mass = counts.cumsum(), (counts * middles).cumsum()
    above = below[-1] - below
    between = (mass[-1] * below - mass * below[-1]) ** 2 / np.maximum(below * above, 1)
    best = np.flatnonzero(between == between.max())  # a gap between the classes ties: its middle
    return float(edges[(best[0] + best[-1]) // 2 + 1])


# --- whole sets


def _survey(part: sources.Part) -> tuple[int, bool]:
    """(median longer side, whether the outermost ring is black in 95 % of pictures) of a sample."""
    spread = np.linspace(0, len(part.labels) - 1, min(len(part.labels), 1000)).round().astype(int)

    def look(i: int) -> tuple[int, bool]:
        with _opened(part, int(spread[i])) as image:
            grey = np.asarray(decode(image, 1))
        ring = max(grey[0].max(), grey[-1].max(), grey[:, 0].max(), grey[:, -1].max())
        return max(grey.shape), ring == 0

    sides, clean = zip(*_each(look, len(spread), "looking at the pictures"), strict=True)
    return int(np.median(sides)), bool(np.mean(clean) >= 0.95)


def _decoded(pictures: Fitted, title: str) -> tuple[Tensor, list[str]]:
    images = np.empty((len(pictures), pictures.channels, pictures.size, pictures.size), np.uint8)

    def load(i: int) -> str:
        images[i], mode = pictures.load(i)
        return mode

    modes = _each(load, len(pictures), title)
    return torch.from_numpy(images), modes


def _modes(pictures: Fitted) -> list[str]:
    """Modes by the files' heads alone, without decoding; a file that has none is refused."""

    def head(i: int) -> str:
        with _opened(pictures.part, i) as image:
            return image.mode

    return _each(head, len(pictures), "checking the pictures")


def _measured(pictures: Pictures, ink: bool) -> dict:
    """Mean and standard deviation of each channel, from exact counts of the 256 values; and the box."""
    count = min(len(pictures), SAMPLE)
    spread = torch.linspace(0, len(pictures) - 1, count, dtype=torch.float64).round().long()
    counts, sides = torch.zeros(pictures.take(spread[:1]).shape[1], 256, dtype=torch.int64), []
    for index in spread.split(1000):
        images = pictures.take(index)
        counts += torch.stack(
            [torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)]
        )
        if ink:
            sides += [_longer_side(image) / image.shape[-1] for image in images.numpy()]
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    std = ((values - mean[:, None]) ** 2 * share).sum(1).sqrt()
    box = float(np.median(sides)) if ink else None
    return {"mean": mean.tolist(), "std": [s or 1.0 for s in std.tolist()], "box": box}


def _longer_side(image: np.ndarray) -> int:
    """The longer side of the box around the ink of a (1, height, width) picture."""
    rows, columns = (np.flatnonzero(image[0].any(axis)) for axis in (1, 0))
    return int(max(np.ptp(rows), np.ptp(columns))) + 1 if len(rows) else 0


def _each(function: Callable[[int], Any], count: int, title: str) -> list:
    """`function` of 0..count-1 by threads (decoders release the lock); a bar where it takes a while."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = count > 500 and console.is_terminal
    with ThreadPool(THREADS) as threads:
        results = threads.imap(function, range(count), chunksize=16)
        return list(
            track(
                results,
                title,
                count,
                console=console,
                disable=not shown,
                transient=True,
            )
        )


@contextlib.contextmanager
def _opened(part: sources.Part, i: int) -> Generator[Image.Image, None, None]:
    """Picture `i` of a part; what goes wrong in decoding it names the file."""
    place = int(part.index[i])
    with _readable(part.pool.where(place)), part.pool[place] as image:
        yield image


@contextlib.contextmanager
def _readable(name: str) -> Generator[None, None, None]:
    try:
        yield
    except BadInput:
        raise
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise BadInput(
            f"{name} is not a readable picture ({reason}); replace or remove it"
        ) from None
