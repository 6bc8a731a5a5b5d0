"""Images with a class for each pixel: read from any source, fitted to one size, split."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from torchstone.data.bad_files import split_skip
from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import SPLIT_SEED
from torchstone.data.vision import openmoji, segmentation_folder
from torchstone.data.vision.preprocess import describe_levels, load_upright, measure_levels
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX, LAYOUT, Labeled, SegmentationFiles
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.indices import evenly_spaced

MEMORY_LIMIT = 2**30  # bytes; a larger data set stays on disk and is decoded batch by batch
THREADS = min(8, os.cpu_count() or 1)
BUNDLED = ("openmoji", "digits")
ATTEMPTS = 100  # seeds that are tried until each split has two classes
DIGITS = 3  # 0, 1 and 2: a data set to try things on in seconds


@dataclass(frozen=True, eq=False)
class SegmentationSplit:
    """One split: images and masks in memory on `device`, or on disk."""

    pairs: tuple[UInt8[Tensor, "n 3 h w"], UInt8[Tensor, "n h w"]] | SegmentationFiles
    device: torch.device

    def contents(self) -> Iterable[Any]:
        """Each image with its mask, undecoded where they stay on disk: see `data.identity`."""
        return (
            self.pairs.pairs if isinstance(self.pairs, SegmentationFiles) else zip(*self.pairs, strict=True)
        )

    def __len__(self) -> int:
        return len(self.pairs.pairs if isinstance(self.pairs, SegmentationFiles) else self.pairs[1])

    def take(
        self, index: Shaped[Tensor, " batch"]
    ) -> tuple[UInt8[Tensor, "batch 3 height width"], UInt8[Tensor, "batch height width"]]:
        """Images and masks at `index`, on the device."""
        if isinstance(self.pairs, SegmentationFiles):
            with ThreadPool(THREADS) as threads:
                loaded = threads.map(self.pairs.__getitem__, index.tolist())
            images, masks = (torch.from_numpy(np.stack(a)) for a in zip(*loaded, strict=True))
            return images.to(self.device), masks.to(self.device)
        images, masks = self.pairs
        index = index.to(self.device)
        return images.index_select(0, index), masks.index_select(0, index)


@dataclass(frozen=True)
class SegmentationDataset:
    """Images and masks of one source in three splits.

    `metadata` (JSON): size, channels, and the mean and std of the train split's images on the 0..1 scale,
    as `dataset.normalize` takes them.
    """

    name: str
    classes: tuple[str, ...]
    train: SegmentationSplit
    val: SegmentationSplit
    test: SegmentationSplit
    metadata: dict
    description: str


@identified(lambda data: {split: getattr(data, split).contents() for split in SPLITS}, unit="images")
def load_segmentation(
    spec: str | Path, *, size: int, device: torch.device | str = "cpu", model: Mapping[str, Any] | None = None
) -> SegmentationDataset:
    """Images and masks of `openmoji`, `digits` or a folder, fitted to `size` x `size`, in color.

    A folder has `images/` and `masks/` (one mask for each image, same stem, same sides, an 8-bit PNG of
    class indices, 255 for pixels to ignore), or `train/`, `val/` and `test/` with these inside. Missing
    splits are split off with a constant seed. The class names stand in `classes.txt`, one per line;
    without it they are `background`, `class 1` and so on. Named classes that occur in no mask are
    listed in the description.

    Args:
        model: the `metadata` of the images that a model was trained on, whose levels these then get too.

    Raises:
        BadInput: a file that is missing, corrupt, of other sides, or labeled out of range, by its name.
    """
    if size < 8:
        raise BadInput(f"images to segment have a size of at least 8, not {size}")
    spec, device = str(spec), torch.device(device)
    splits, levels = {}, None
    if spec in BUNDLED:
        make = _openmoji if spec == "openmoji" else _digits
        images, masks, families, classes, description = make(size)
        for split, rows in _split_by_family({"train": np.arange(len(masks))}, families).items():
            pairs = (_to_device(images[rows], device), _to_device(masks[rows], device))
            splits[split] = SegmentationSplit(pairs, device)
    else:
        name, skip = split_skip(spec)
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise BadInput(f"no data {spec!r}: {did_you_mean(spec, BUNDLED)}, or {LAYOUT}")
        pairs, rows, classes, description = segmentation_folder.read(folder, size, skip=skip)
        stays_on_disk = len(pairs) * 4 * size**2 > MEMORY_LIMIT
        index_of = _split_judgeably(rows, pairs, classes, str(folder))
        levels = None if model is None else model.get("levels")
        for split, index in index_of.items():
            files = SegmentationFiles(tuple(pairs[i] for i in index), size)
            if split == "train" and model is None:
                with ThreadPool(THREADS) as threads:
                    levels = measure_levels(threads.map(files.read_deep, range(len(index))))
            files = replace(files, levels=levels)
            splits[split] = SegmentationSplit(files, device)
            if not stays_on_disk:
                on_cpu = SegmentationSplit(files, torch.device("cpu"))
                images, masks = on_cpu.take(torch.arange(len(files.pairs)))
                splits[split] = SegmentationSplit((images.to(device), masks.to(device)), device)
    sizes = " / ".join(f"{len(split)} {name}" for name, split in splits.items())
    metadata = {"size": size, "channels": 3, "ink": False, "box": None} | _channel_stats(splits["train"])
    if levels is not None:
        metadata["levels"] = list(levels)
        description += describe_levels(levels)
    return SegmentationDataset(
        spec, classes, **splits, metadata=metadata, description=f"{description}; {sizes}"
    )


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _openmoji(size: int):
    images, masks, stems = openmoji.load_drawings(size)
    families = [openmoji.family(stem) for stem in stems]
    description = "openmoji: 4,495 drawings (artwork, CC BY-SA 4.0, openmoji.org), their layers as classes"
    return images.transpose(0, 3, 1, 2), masks, families, openmoji.CLASSES, description


def _digits(size: int):
    """The first digits of scikit-learn, each pixel of ink labeled with its digit."""
    from sklearn.datasets import load_digits

    data, target = load_digits(n_class=DIGITS, return_X_y=True)
    gray = np.round(data.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    gray = np.stack([np.asarray(Image.fromarray(g).resize((size, size))) for g in gray])
    masks = np.where(gray > 127, target[:, None, None] + 1, 0).astype(np.uint8)
    images = np.repeat(gray[:, None], 3, 1)
    classes = ("background", *map(str, range(DIGITS)))
    description = f"digits: {len(masks)} handwritten digits of scikit-learn, ink labelled by its digit"
    return images, masks, [str(i) for i in range(len(masks))], classes, description


def _split_judgeably(
    rows: dict[str, np.ndarray], pairs: list[Labeled], classes: tuple[str, ...], name: str
) -> dict[str, np.ndarray]:
    """The splits, each with at least two classes: on one class a constant prediction would be perfect.

    Missing splits are cut anew, by the next seed, until they have them.

    Raises:
        BadInput: a split has one class only, or is empty.
    """
    families = [str(i) for i in range(len(pairs))]
    for salt in range(ATTEMPTS if len(rows) < 3 else 1):
        found = _split_by_family(rows, families, salt)
        present = {
            split: sorted({int(label) for i in index for label in pairs[i].labels} - {IGNORE_INDEX})
            for split, index in found.items()
        }
        if all(len(labels) >= 2 for labels in present.values()):
            return found
    split = next(split for split, labels in present.items() if len(labels) < 2)
    only = f"only {classes[present[split][0]]!r}" if present[split] else "no class"
    advice = "give it" if split in rows else "give more images, or a folder of this split, with"
    raise BadInput(f"the masks of the {split} split of {name} show {only}: {advice} masks of two classes")


def _split_by_family(
    rows: dict[str, np.ndarray], families: list[str], salt: int = 0
) -> dict[str, np.ndarray]:
    """Missing splits: a fifth of all for the test, then a tenth of the rest, by families, so that no
    variant of a test drawing is trained on."""
    rows = dict(rows)
    for split, share in (("test", 0.2), ("val", 0.1)):
        if split in rows:
            continue
        rest = rows["train"]
        names = sorted({families[i] for i in rest})
        order = np.random.RandomState(SPLIT_SEED + salt).permutation(len(names))
        held_out = {names[i] for i in order[: max(1, round(share * len(names)))]}
        inside = np.array([families[i] in held_out for i in rest], dtype=bool)
        rows["train"], rows[split] = rest[~inside], rest[inside]
    return {split: rows[split] for split in ("train", "val", "test")}


def _channel_stats(split: SegmentationSplit) -> dict:
    """Mean and standard deviation per channel, over up to 2,000 images."""
    sample = evenly_spaced(len(split), 2000)
    total = torch.zeros(2, 3, dtype=torch.float64)
    for index in sample.split(64):
        values = split.take(index)[0].cpu().double() / 255
        total += torch.stack([values.mean((2, 3)).sum(0), values.square().mean((2, 3)).sum(0)])
    mean, square = total / len(sample)
    std = (square - mean.square()).clamp(min=0).sqrt()
    return {"mean": mean.tolist(), "std": [s or 1.0 for s in std.tolist()]}


def preprocess(
    file: Path | str | Image.Image, metadata: dict
) -> tuple[UInt8[Tensor, "1 3 height width"], Image.Image]:
    """(an image from anywhere, its shorter side `metadata["size"]`, uncropped; the original image).

    Raises:
        BadInput: the file is missing or corrupt.
    """
    image, _ = load_upright(file, 3, metadata.get("levels"))
    scale = metadata["size"] / min(image.size)
    width, height = (max(metadata["size"], round(side * scale)) for side in image.size)
    pixels = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(), image
