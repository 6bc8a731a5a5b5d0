"""Labeled images: read from any source, fitted to one size, with the statistics that normalize them."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor

from torchstone.data.bad_files import describe, listed, split_skip
from torchstone.data.splits import ImageArray, Source, Subset
from torchstone.data.vision import sources
from torchstone.data.vision.preprocess import (
    Levels,
    decode,
    deep_values,
    describe_levels,
    file_mode,
    fit_as_stated,
    fit_to_square,
    is_deep,
    longer_sides,
    measure_levels,
    report_unreadable,
)
from torchstone.errors import BadInput
from torchstone.parts.indices import evenly_spaced

MEMORY_LIMIT = 2**30  # bytes; a larger data set stays on disk and is decoded batch by batch
STATS_SAMPLE = 20_000  # mean, standard deviation and box are measured on at most this many images
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class ImageFiles:
    """Images on disk, decoded and fitted on access; a map-style data set for `DataLoader`."""

    subset: Subset
    size: int
    channels: int
    ink: bool
    levels: Levels = None
    framing: Mapping[str, Any] | None = None  # of a published model, in place of `fit_to_square`

    def __len__(self) -> int:
        return len(self.subset.labels)

    def load(self, i: int) -> tuple[np.ndarray, str]:
        """(uint8 (channel, size, size), the file's own color mode); `BadInput` names a corrupt file."""
        with _open_image(self.subset, i) as image:
            mode, decoded = file_mode(image), decode(image, self.channels, self.levels)
            if self.framing:
                return fit_as_stated(decoded, self.size, self.framing), mode
            return fit_to_square(decoded, self.size, self.ink), mode

    def __getitem__(self, i: int) -> Tensor | str:
        try:
            return torch.from_numpy(self.load(i)[0])
        except BadInput as error:
            return str(error)  # an exception would come out of a worker wrapped in its traceback


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images and labels of one split: in memory, on the device of `labels`, or on disk (`ImageFiles`)."""

    labels: Int64[Tensor, " count"]
    images: UInt8[Tensor, "count channel height width"] | ImageFiles

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Shaped[Tensor, " batch"]) -> UInt8[Tensor, "batch channel height width"]:
        """The images at `index`, on the device of `labels`."""
        if isinstance(self.images, Tensor):
            return self.images.index_select(0, index.to(self.images.device))
        with ThreadPool(THREADS) as threads:
            loaded = threads.map(self.images.load, index.tolist())
        return torch.from_numpy(np.stack([array for array, _ in loaded])).to(self.labels.device)


@dataclass(frozen=True)
class ImageDataset:
    """Images of one source in three splits.

    `metadata` (JSON) is what `preprocess` and `normalize` need: size, channels, ink (whether the images
    are ink on an empty background), box (the fraction of the side that the ink fills), native (the side
    before fitting), mean and std on the 0..1 scale, and where images have more than 8 bits `levels`, the
    values that become black and white. All are measured on the train split alone.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSplit
    val: ImageSplit
    test: ImageSplit
    metadata: dict
    description: str


def load_images(
    spec: str | Path,
    *,
    size: int,
    channels: int,
    device: torch.device | str = "cpu",
    model: Mapping[str, Any] | None = None,
) -> ImageDataset:
    """Images of `digits`, `mnist5k`, a folder, a zip file or `hf:NAME`, fitted to `size` x `size`.

    Up to `MEMORY_LIMIT` bytes are decoded now and held on `device`.

    Args:
        model: the `metadata` of the images that a model was trained on, whose levels and framing these
            then get too.

    Raises:
        BadInput: a source that is missing, empty or too small to split; all images that are corrupt. These
            are left out and listed in the description if `spec` begins with `skip-bad:`.
    """
    if channels not in (1, 3) or size < 1:
        raise BadInput(f"images have 1 or 3 channels and a positive size, not {channels} and {size}")
    name, skip = split_skip(str(spec))
    source = _leave_out_bad(sources.read(name)) if skip else sources.read(name)
    try:
        return _load(source, size, channels, device, model)
    except BadInput:
        bad = {} if skip else _find_bad(source)
        if len(bad) < 2:
            raise
    raise BadInput(
        describe(list(bad.values()), sum(len(subset.labels) for subset in source.subsets.values()))
    )


def _load(
    source: Source, size: int, channels: int, device: torch.device | str, model: Mapping[str, Any] | None
) -> ImageDataset:
    train = source.subsets["train"]
    levels = _measure_levels(train) if model is None else model.get("levels")
    native, has_black_border = _detect_framing(train, levels)
    ink = channels == 1 and (has_black_border if source.ink is None else source.ink)
    files = {
        split: ImageFiles(subset, size, channels, ink, levels, (model or {}).get("framing"))
        for split, subset in source.subsets.items()
    }
    total = sum(map(len, files.values())) * channels * size**2
    modes: Counter[str] = Counter()
    splits = {}
    for split, split_files in files.items():
        labels = torch.from_numpy(split_files.subset.labels)
        if total <= MEMORY_LIMIT:
            images, file_modes = _decode_all(split_files, f"reading {source.name} ({split})")
        else:
            images, file_modes = split_files, _read_modes(split_files)
        modes.update(file_modes)
        splits[split] = ImageSplit(labels, images)
    metadata = {"size": size, "channels": channels, "ink": ink} | _channel_stats(splits["train"], ink)
    metadata["native"] = native
    if levels is not None:
        metadata["levels"] = list(levels)
    description = source.description + describe_levels(levels)
    wanted = "L" if channels == 1 else "RGB"
    if converted := {mode: n for mode, n in modes.items() if mode != wanted}:
        counts = ", ".join(f"{mode} {n}" for mode, n in sorted(converted.items()))
        description += f"; converted to {wanted}: {counts}"
    for split, images in splits.items():
        pixels = images.images
        pixels = pixels.to(device) if isinstance(pixels, Tensor) else pixels
        splits[split] = ImageSplit(images.labels.to(device), pixels)
    return ImageDataset(source.name, source.classes, **splits, metadata=metadata, description=description)


def normalize(
    images: Shaped[Tensor, "batch channel height width"], metadata: dict
) -> Float[Tensor, "batch channel height width"]:
    """(x / 255 − mean) / std per channel; `images` on the 0..255 scale, uint8 or float."""
    scale, offset = scale_and_offset(metadata, images.device)
    return (images * scale).add_(offset)


def scale_and_offset(metadata: dict, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
    """`normalize` as one multiplication and one addition; plain numbers for one channel."""
    scales = [1 / (255 * s) for s in metadata["std"]]
    offsets = [-m / s for m, s in zip(metadata["mean"], metadata["std"], strict=True)]
    if len(scales) == 1:
        return scales[0], offsets[0]
    shape = (1, len(scales), 1, 1)
    return torch.tensor(scales, device=device).view(shape), torch.tensor(offsets, device=device).view(shape)


def _find_bad(source: Source) -> dict[tuple[str, int], str]:
    """What is wrong with each image that cannot be read, by its split and its row there."""
    examples = [(split, i) for split, subset in source.subsets.items() for i in range(len(subset.labels))]

    def check(number: int) -> str:
        split, i = examples[number]
        try:
            with _open_image(source.subsets[split], i) as image:
                deep_values(image)
                decode(image, 1)
        except BadInput as error:
            return str(error)
        return ""

    errors = _map_threads(check, len(examples), "checking the images")
    return {place: error for place, error in zip(examples, errors, strict=True) if error}


def _leave_out_bad(source: Source) -> Source:
    """The source without the images that cannot be read, which its description then lists.

    Raises:
        BadInput: a class or a split has none left.
    """
    bad = _find_bad(source)
    subsets = {
        split: subset.select(
            np.array([i for i in range(len(subset.labels)) if (split, i) not in bad], dtype=int)
        )
        for split, subset in source.subsets.items()
    }
    sizes = " / ".join(f"{len(subset.labels)} {split}" for split, subset in subsets.items())
    note = f", {len(bad)} left out, which leaves {sizes}: {listed(list(bad.values()))}" if bad else ""
    counts = np.bincount(subsets["train"].labels, minlength=len(source.classes))
    empty = [f"class {source.classes[counts.argmin()]!r}"] if not counts.min() else []
    empty += [f"the {split} split" for split, subset in subsets.items() if not len(subset.labels)]
    if empty:
        raise BadInput(f"{empty[0]} of {source.name} has no image left{note}")
    return replace(source, subsets=subsets, description=source.description + note)


def _measure_levels(subset: Subset) -> Levels:
    """The range of all images of more than 8 bits, if a sample has any."""
    if isinstance(subset.pool, ImageArray):
        return None

    def read(i: int) -> np.ndarray | None:
        with _open_image(subset, i) as image:
            return deep_values(image)

    def look(i: int) -> bool:
        with _open_image(subset, i) as image:
            return is_deep(image)

    sample = evenly_spaced(len(subset.labels), 1000).tolist()
    title = "inspecting the images"
    if not any(_map_threads(lambda i: look(sample[i]), len(sample), title)):
        return None
    return measure_levels(_map_threads(read, len(subset.labels), title))


def _detect_framing(subset: Subset, levels: Levels) -> tuple[int, bool]:
    """(median longer side, whether the outermost pixels are black in 95 % of images) of a sample."""
    sample = evenly_spaced(len(subset.labels), 1000).tolist()
    if isinstance(subset.pool, ImageArray) and levels is None:  # all at once
        gray = subset.pool.array[subset.index[sample]]
        border = (gray[:, [0, -1]].max((1, 2)), gray[:, :, [0, -1]].max((1, 2)))
        return max(gray.shape[1:]), bool(np.mean(np.maximum(*border) == 0) >= 0.95)

    def inspect(i: int) -> tuple[int, bool]:
        with _open_image(subset, sample[i]) as image:
            gray = np.asarray(decode(image, 1, levels))
        border = max(gray[0].max(), gray[-1].max(), gray[:, 0].max(), gray[:, -1].max())
        return max(gray.shape), bool(border == 0)

    sides, black = zip(*_map_threads(inspect, len(sample), "inspecting the images"), strict=True)
    return int(np.median(sides)), bool(np.mean(black) >= 0.95)


def _decode_all(files: ImageFiles, title: str) -> tuple[Tensor, list[str]]:
    """(all images in memory, the color modes of their files)."""
    if (framed := _frame_array(files)) is not None:
        return torch.from_numpy(framed), ["L"] * len(files)
    images = np.empty((len(files), files.channels, files.size, files.size), np.uint8)

    def load(i: int) -> str:
        images[i], mode = files.load(i)
        return mode

    modes = _map_threads(load, len(files), title)
    return torch.from_numpy(images), modes


def _frame_array(files: ImageFiles) -> np.ndarray | None:
    """All images of an array at once, where they need no resizing; as `fit_to_square` frames one by one,
    which for a data set like MNIST is half of a short run."""
    pool = files.subset.pool
    if not isinstance(pool, ImageArray) or files.channels != 1 or files.framing:
        return None
    height, width = pool.array.shape[1:]
    needs_padding = files.ink and 0.75 * files.size <= max(height, width) <= files.size
    if (height, width) != (files.size, files.size) and not needs_padding:
        return None
    images = np.zeros((len(files), 1, files.size, files.size), np.uint8)
    top, left = (files.size - height) // 2, (files.size - width) // 2
    framed = images[:, 0, top : top + height, left : left + width]
    for start in range(0, len(files), 1024):  # a copy of all of them at once costs as much again
        some = slice(start, start + 1024)
        framed[some] = pool.array[files.subset.index[some]]
    return images


def _read_modes(files: ImageFiles) -> list[str]:
    """Color modes from the file headers alone, without decoding; a file without a header is refused."""

    def read_mode(i: int) -> str:
        with _open_image(files.subset, i) as image:
            return file_mode(image)

    return _map_threads(read_mode, len(files), "checking the images")


def _channel_stats(split: ImageSplit, ink: bool) -> dict:
    """Mean and standard deviation per channel, from exact counts of the 256 values; and the box."""
    sample = evenly_spaced(len(split), STATS_SAMPLE)
    counts, sides = torch.zeros(split.take(sample[:1]).shape[1], 256, dtype=torch.int64), []
    for index in sample.split(1000):
        images = split.take(index)
        counts += torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
        if ink:
            sides += (longer_sides(images.numpy()) / images.shape[-1]).tolist()
    frequency = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = frequency @ values
    std = ((values - mean[:, None]) ** 2 * frequency).sum(1).sqrt()
    box = float(np.median(sides)) if ink else None
    return {"mean": mean.tolist(), "std": [s or 1.0 for s in std.tolist()], "box": box}


def _map_threads(function: Callable[[int], Any], count: int, title: str) -> list:
    """`function` of 0..count-1 in threads (decoders release the lock), with a progress bar for many."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    show_bar = count > 500 and console.is_terminal
    with ThreadPool(THREADS) as threads:
        results = threads.imap(function, range(count), chunksize=16)
        return list(track(results, title, count, console=console, disable=not show_bar, transient=True))


@contextlib.contextmanager
def _open_image(subset: Subset, i: int) -> Generator[Image.Image, None, None]:
    """Image `i` of a subset; an error in decoding it names the file."""
    row = int(subset.index[i])
    with report_unreadable(subset.pool.describe(row)), subset.pool[row] as image:
        yield image
