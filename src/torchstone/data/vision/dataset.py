"""Labelled pictures: read from any source, fitted to one size, and prepared alike for use later."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor

from torchstone.data.splits import Subset
from torchstone.data.vision import sources
from torchstone.data.vision.preprocess import decode, fit_to_square, longer_side, report_unreadable
from torchstone.errors import BadInput

MEMORY_LIMIT = 2**30  # bytes; a larger set stays on disk and is decoded batch by batch
STATS_SAMPLE = 20_000  # pictures that mean, deviation and box are measured on, at most
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class ImageFiles:
    """Pictures on disk, decoded and fitted when asked for; a data set for `DataLoader`."""

    part: Subset
    size: int
    channels: int
    ink: bool

    def __len__(self) -> int:
        return len(self.part.labels)

    def load(self, i: int) -> tuple[np.ndarray, str]:
        """(uint8 (channel, size, size), the file's own mode); `BadInput` names what is corrupt."""
        with _open_image(self.part, i) as image:
            return fit_to_square(decode(image, self.channels), self.size, self.ink), image.mode

    def __getitem__(self, i: int) -> Tensor | str:
        try:
            return torch.from_numpy(self.load(i)[0])
        except BadInput as error:
            return str(error)  # an exception would come out of a worker wrapped in its traceback


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """One split: in memory, on the device of `labels`, or on disk (`Fitted`)."""

    labels: Int64[Tensor, " count"]
    images: UInt8[Tensor, "count channel height width"] | ImageFiles

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
class ImageDataset:
    """Pictures of one source in three splits; `metadata` (JSON) is what `prepare` and `normalise` need:
    size, channels, ink, box (share of the side that ink fills), native (side before fitting), mean and
    std on the 0..1 scale, from the train split alone."""

    name: str
    classes: tuple[str, ...]
    train: ImageSplit
    val: ImageSplit
    test: ImageSplit
    metadata: dict
    description: str


def load_images(
    spec: str | Path, *, size: int, channels: int, device: torch.device | str = "cpu"
) -> ImageDataset:
    """Pictures of `digits`, `mnist5k`, a folder, a zip file or `hf:NAME`, fitted to `size` x `size`.

    Up to `IN_MEMORY` bytes are decoded now and kept on `device`. Raises `BadInput` for what is missing,
    empty, corrupt or too small to split.
    """
    if channels not in (1, 3) or size < 1:
        raise BadInput(f"pictures have 1 or 3 channels and a positive size, not {channels} and {size}")
    source = sources.read(str(spec))
    train = source.parts["train"]
    sides, clean = _detect_framing(train)
    ink = channels == 1 and (clean if source.ink is None else source.ink)
    fitted = {split: ImageFiles(part, size, channels, ink) for split, part in source.parts.items()}
    total = sum(map(len, fitted.values())) * channels * size**2
    modes: Counter[str] = Counter()
    splits = {}
    for split, pictures in fitted.items():
        labels = torch.from_numpy(pictures.part.labels)
        if total <= MEMORY_LIMIT:
            images, found = _decode_all(pictures, f"reading {source.name} ({split})")
        else:
            images, found = pictures, _read_modes(pictures)
        modes.update(found)
        splits[split] = ImageSplit(labels, images)
    metadata = {"size": size, "channels": channels, "ink": ink} | _channel_stats(splits["train"], ink)
    metadata["native"] = sides
    note = source.description
    if odd := {mode: n for mode, n in modes.items() if mode != ("L" if channels == 1 else "RGB")}:
        counts = ", ".join(f"{mode} {n}" for mode, n in sorted(odd.items()))
        note += f"; converted to {'L' if channels == 1 else 'RGB'}: {counts}"
    for split, pictures in splits.items():
        images = pictures.images
        images = images.to(device) if isinstance(images, Tensor) else images
        splits[split] = ImageSplit(pictures.labels.to(device), images)
    return ImageDataset(source.name, source.classes, **splits, metadata=metadata, description=note)


def normalize(
    images: Shaped[Tensor, "batch channel height width"], metadata: dict
) -> Float[Tensor, "batch channel height width"]:
    """(x / 255 − mean) / std, channel by channel; `images` on the 0..255 scale, uint8 or float."""
    factor, offset = scale_and_offset(metadata, images.device)
    return (images * factor).add_(offset)


def scale_and_offset(metadata: dict, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
    """`normalise` as one multiplication and one addition; plain numbers for one channel."""
    factors = [1 / (255 * s) for s in metadata["std"]]
    offsets = [-m / s for m, s in zip(metadata["mean"], metadata["std"], strict=True)]
    if len(factors) == 1:
        return factors[0], offsets[0]
    shape = (1, len(factors), 1, 1)
    return torch.tensor(factors, device=device).view(shape), torch.tensor(offsets, device=device).view(shape)


def _detect_framing(part: Subset) -> tuple[int, bool]:
    """(median longer side, whether the outermost ring is black in 95 % of pictures) of a sample."""
    spread = np.linspace(0, len(part.labels) - 1, min(len(part.labels), 1000)).round().astype(int)

    def look(i: int) -> tuple[int, bool]:
        with _open_image(part, int(spread[i])) as image:
            grey = np.asarray(decode(image, 1))
        ring = max(grey[0].max(), grey[-1].max(), grey[:, 0].max(), grey[:, -1].max())
        return max(grey.shape), bool(ring == 0)

    sides, clean = zip(*_map_threads(look, len(spread), "looking at the pictures"), strict=True)
    return int(np.median(sides)), bool(np.mean(clean) >= 0.95)


def _decode_all(pictures: ImageFiles, title: str) -> tuple[Tensor, list[str]]:
    images = np.empty((len(pictures), pictures.channels, pictures.size, pictures.size), np.uint8)

    def load(i: int) -> str:
        images[i], mode = pictures.load(i)
        return mode

    modes = _map_threads(load, len(pictures), title)
    return torch.from_numpy(images), modes


def _read_modes(pictures: ImageFiles) -> list[str]:
    """Modes by the files' heads alone, without decoding; a file that has none is refused."""

    def head(i: int) -> str:
        with _open_image(pictures.part, i) as image:
            return image.mode

    return _map_threads(head, len(pictures), "checking the pictures")


def _channel_stats(pictures: ImageSplit, ink: bool) -> dict:
    """Mean and standard deviation of each channel, from exact counts of the 256 values; and the box."""
    count = min(len(pictures), STATS_SAMPLE)
    spread = torch.linspace(0, len(pictures) - 1, count, dtype=torch.float64).round().long()
    counts, sides = torch.zeros(pictures.take(spread[:1]).shape[1], 256, dtype=torch.int64), []
    for index in spread.split(1000):
        images = pictures.take(index)
        counts += torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
        if ink:
            sides += [longer_side(image) / image.shape[-1] for image in images.numpy()]
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    std = ((values - mean[:, None]) ** 2 * share).sum(1).sqrt()
    box = float(np.median(sides)) if ink else None
    return {"mean": mean.tolist(), "std": [s or 1.0 for s in std.tolist()], "box": box}


def _map_threads(function: Callable[[int], Any], count: int, title: str) -> list:
    """`function` of 0..count-1 by threads (decoders release the lock); a bar where it takes a while."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = count > 500 and console.is_terminal
    with ThreadPool(THREADS) as threads:
        results = threads.imap(function, range(count), chunksize=16)
        bar = track(results, title, count, console=console, disable=not shown, transient=True)
        return list(bar)


@contextlib.contextmanager
def _open_image(part: Subset, i: int) -> Generator[Image.Image, None, None]:
    """Picture `i` of a part; what goes wrong in decoding it names the file."""
    place = int(part.index[i])
    with report_unreadable(part.pool.where(place)), part.pool[place] as image:
        yield image
