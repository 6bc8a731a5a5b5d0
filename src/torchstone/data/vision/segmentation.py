"""Pictures with a class for each pixel: read from any source, fitted to one size, cut into splits."""

import os
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from torchstone.data.splits import SPLIT_SEED
from torchstone.data.vision import openmoji, segmentation_folder
from torchstone.data.vision.preprocess import decode, report_unreadable
from torchstone.data.vision.segmentation_folder import LAYOUT, SegmentationFiles
from torchstone.errors import BadInput, did_you_mean

MEMORY_LIMIT = 2**30  # bytes; a larger set stays on disk and is decoded batch by batch
THREADS = min(8, os.cpu_count() or 1)
BUNDLED = ("openmoji", "digits")
DIGITS = 3  # 0, 1 and 2: a set to try things on in seconds


@dataclass(frozen=True, eq=False)
class SegmentationSplit:
    """One split: pictures and masks in memory on `device`, or on disk."""

    pairs: tuple[UInt8[Tensor, "n 3 h w"], UInt8[Tensor, "n h w"]] | SegmentationFiles
    device: torch.device

    def __len__(self) -> int:
        return len(self.pairs.pairs if isinstance(self.pairs, SegmentationFiles) else self.pairs[1])

    def take(
        self, index: Shaped[Tensor, " batch"]
    ) -> tuple[UInt8[Tensor, "batch 3 height width"], UInt8[Tensor, "batch height width"]]:
        """Pictures and masks at `index`, on the device."""
        if isinstance(self.pairs, SegmentationFiles):
            with ThreadPool(THREADS) as threads:
                loaded = threads.map(self.pairs.__getitem__, index.tolist())
            pictures, masks = (torch.from_numpy(np.stack(a)) for a in zip(*loaded, strict=True))
            return pictures.to(self.device), masks.to(self.device)
        pictures, masks = self.pairs
        index = index.to(self.device)
        return pictures.index_select(0, index), masks.index_select(0, index)


@dataclass(frozen=True)
class SegmentationDataset:
    """Scenes of one source in three splits; `metadata` (JSON): size, channels, and mean and std of the train
    split's pictures on the 0..1 scale, as `images.normalise` takes them."""

    name: str
    classes: tuple[str, ...]
    train: SegmentationSplit
    val: SegmentationSplit
    test: SegmentationSplit
    metadata: dict
    description: str


def load_segmentation(
    spec: str | Path, *, size: int, device: torch.device | str = "cpu"
) -> SegmentationDataset:
    """Scenes of `openmoji`, `digits` or a folder, fitted to `size` x `size`, in colour.

    A folder has `images/` and `masks/` (one mask for each picture, same stem, same sides, an 8-bit PNG
    of class numbers, 255 for pixels to leave out), or `train/`, `val/` and `test/` with these inside;
    what is missing of the splits is cut off by a constant seed. The names of the classes stand in
    `classes.txt`, one a line; without it they are `background`, `class 1` and so on.

    Raises:
        BadInput: what is missing, corrupt, of other sides, or labelled out of range, by its name.
    """
    if size < 8:
        raise BadInput(f"scenes have a size of at least 8, not {size}")
    spec, device = str(spec), torch.device(device)
    if spec in BUNDLED:
        pictures, masks, families, classes, note = _openmoji(size) if spec == "openmoji" else _digits(size)
        whole = {"train": np.arange(len(masks))}
        parts = {
            split: SegmentationSplit(
                (_to_device(pictures[rows], device), _to_device(masks[rows], device)), device
            )
            for split, rows in _split_by_family(whole, families).items()
        }
    else:
        folder = Path(spec).expanduser()
        if not folder.is_dir():
            raise BadInput(f"no data {spec!r}: {did_you_mean(spec, BUNDLED)}, or {LAYOUT}")
        pairs, rows, classes, note = segmentation_folder.read(folder)
        stored = len(pairs) * 4 * size**2 > MEMORY_LIMIT
        parts = {}
        for split, chosen in _split_by_family(rows, [str(i) for i in range(len(pairs))]).items():
            files = SegmentationFiles(tuple(pairs[i] for i in chosen), size)
            parts[split] = SegmentationSplit(files, device)
            if not stored:
                both = SegmentationSplit(files, torch.device("cpu")).take(torch.arange(len(files.pairs)))
                parts[split] = SegmentationSplit((both[0].to(device), both[1].to(device)), device)
    sizes = " / ".join(f"{len(part)} {split}" for split, part in parts.items())
    metadata = {"size": size, "channels": 3, "ink": False, "box": None} | _channel_stats(parts["train"])
    return SegmentationDataset(spec, classes, **parts, metadata=metadata, description=f"{note}; {sizes}")


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _openmoji(size: int):
    pictures, masks, stems = openmoji.drawings(size)
    families = [openmoji.family(stem) for stem in stems]
    note = "openmoji: 4,495 drawings (artwork, CC BY-SA 4.0, openmoji.org), their layers as classes"
    return pictures.transpose(0, 3, 1, 2), masks, families, openmoji.CLASSES, note


def _digits(size: int):
    """The first digits of scikit-learn, each pixel of ink labelled with its digit."""
    from sklearn.datasets import load_digits

    data, target = load_digits(n_class=DIGITS, return_X_y=True)
    grey = np.round(data.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(g).resize((size, size))) for g in grey])
    masks = np.where(grey > 127, target[:, None, None] + 1, 0).astype(np.uint8)
    pictures = np.repeat(grey[:, None], 3, 1)
    names = ("background", *map(str, range(DIGITS)))
    note = f"digits: {len(masks)} handwritten digits of scikit-learn, ink labelled by its digit"
    return pictures, masks, [str(i) for i in range(len(masks))], names, note


def _split_by_family(rows: dict[str, np.ndarray], families: list[str]) -> dict[str, np.ndarray]:
    """Splits that are not given: a fifth of all for the test, then a tenth of the rest, by families, so
    that no variant of a drawing tested on is trained on."""
    rows = dict(rows)
    for split, share in (("test", 0.2), ("val", 0.1)):
        if split in rows:
            continue
        left = rows["train"]
        names = sorted({families[i] for i in left})
        order = np.random.RandomState(SPLIT_SEED).permutation(len(names))
        taken = {names[i] for i in order[: max(1, round(share * len(names)))]}
        inside = np.array([families[i] in taken for i in left])
        rows["train"], rows[split] = left[~inside], left[inside]
    return {split: rows[split] for split in ("train", "val", "test")}


def _channel_stats(scenes: SegmentationSplit) -> dict:
    """Mean and standard deviation of each channel, of up to 2,000 pictures."""
    count = min(len(scenes), 2000)
    spread = torch.linspace(0, len(scenes) - 1, count, dtype=torch.float64).round().long()
    total = torch.zeros(2, 3, dtype=torch.float64)
    for index in spread.split(64):
        values = scenes.take(index)[0].cpu().double() / 255
        total += torch.stack([values.mean((2, 3)).sum(0), values.square().mean((2, 3)).sum(0)])
    mean, square = total / count
    std = (square - mean.square()).clamp(min=0).sqrt()
    return {"mean": mean.tolist(), "std": [s or 1.0 for s in std.tolist()]}


def preprocess(
    file: Path | str | Image.Image, metadata: dict
) -> tuple[UInt8[Tensor, "1 3 height width"], Image.Image]:
    """A picture from anywhere, its shorter side the metadata's size and nothing cut off; and as it was.

    Raises:
        BadInput: it is missing or corrupt.
    """
    name = "the picture" if isinstance(file, Image.Image) else str(file)
    if not isinstance(file, Image.Image) and not Path(file).is_file():
        raise BadInput(f"{name} {'is no file' if Path(file).exists() else 'does not exist'}")
    with report_unreadable(name):
        if isinstance(file, Image.Image):
            image = decode(file, 3)
        else:
            with Image.open(file) as opened:
                image = decode(opened, 3)
    scale = metadata["size"] / min(image.size)
    sides = [max(metadata["size"], round(side * scale)) for side in image.size]
    pixels = np.array(image.resize((sides[0], sides[1]), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(), image
