"""Segmentation data of one's own: a folder of images and a folder of masks, checked before training."""

import os
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from torchstone.data.splits import SPLIT_NAMES
from torchstone.data.vision.image_folder import SUFFIXES
from torchstone.data.vision.preprocess import decode, report_unreadable
from torchstone.errors import BadInput

IGNORE_INDEX = 255  # the label of pixels without a class: never trained on, never counted
THREADS = min(8, os.cpu_count() or 1)
LAYOUT = "give a folder with images/ and masks/, PNG masks with the names of the images"


@dataclass(frozen=True)
class SegmentationFiles:
    """Pairs of image and mask on disk, decoded and fitted on access."""

    pairs: tuple[tuple[Path, Path], ...]
    size: int

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (3, size, size) and (size, size): the shorter side resized, then center-cropped."""
        image_file, mask_file = self.pairs[i]
        with report_unreadable(str(image_file)), Image.open(image_file) as opened:
            image = decode(opened, 3)
        with report_unreadable(str(mask_file)), Image.open(mask_file) as opened:
            labels = mask_indices(opened, mask_file)
        scale = self.size / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        left, top = ((side - self.size) // 2 for side in size)
        window = (left, top, left + self.size, top + self.size)
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR).crop(window))
        mask = np.asarray(labels.resize(size, Image.Resampling.NEAREST).crop(window))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), mask


def mask_indices(image: Image.Image, file: Path) -> Image.Image:
    """A mask's class indices as stored in the file, whatever colors its palette has."""
    if image.mode not in ("L", "P", "1"):
        raise BadInput(
            f"{file} is no index mask (its mode is {image.mode}): save an 8-bit PNG, gray or with a "
            f"palette, whose values are the class indices, {IGNORE_INDEX} for pixels to ignore"
        )
    # through the bare numbers: Pillow would turn a palette's indices into its colors
    return Image.fromarray(np.asarray(image).astype(np.uint8))


def read(folder: Path) -> tuple[list[tuple[Path, Path]], dict[str, np.ndarray], tuple[str, ...], str]:
    """Pairs of files, the rows of each split, the classes, and a description.

    Raises:
        BadInput: an image without a mask or the reverse, sides that differ, labels out of range.
    """
    roots = {"train": folder}
    split_folders = {
        SPLIT_NAMES[f.name]: f for f in sorted(folder.iterdir()) if f.name in SPLIT_NAMES and f.is_dir()
    }
    if "train" in split_folders:
        roots = split_folders
    pairs: list[tuple[Path, Path]] = []
    rows = {}
    for split, root in roots.items():
        split_pairs = _find_pairs(root)
        rows[split] = np.arange(len(pairs), len(pairs) + len(split_pairs))
        pairs += split_pairs
    missing = 3 - len(rows)
    if len(rows["train"]) < 1 + missing:
        raise BadInput(
            f"{folder} has {len(rows['train'])} image to train on, too few to cut "
            f"{missing} splits off: give at least {1 + missing}"
        )
    with ThreadPool(THREADS) as threads:
        labels_of_masks = threads.starmap(_mask_labels, pairs)
    names = _class_names(folder)
    count = len(names) if names else 1 + max(int(labels.max(initial=0)) for labels in labels_of_masks)
    for (_, mask), labels in zip(pairs, labels_of_masks, strict=True):
        if len(labels) and labels.max() >= count:
            raise BadInput(
                f"{mask} has the label {labels.max()}, but classes.txt names {count} classes, "
                f"0 to {count - 1} ({IGNORE_INDEX}: ignored)"
            )
    if count < 2:
        raise BadInput(
            f"the masks in {folder} have one class only: give each class its index, 0 for "
            f"background ({IGNORE_INDEX} stands for pixels to ignore)"
        )
    classes = names or ("background", *(f"class {i}" for i in range(1, count)))
    return pairs, rows, classes, f"{folder.name}: {len(pairs)} images with masks, {count} classes"


def _find_pairs(root: Path) -> list[tuple[Path, Path]]:
    images_folder, masks_folder = root / "images", root / "masks"
    for folder in (images_folder, masks_folder):
        if not folder.is_dir():
            raise BadInput(f"{folder} does not exist: {LAYOUT}")
    images = _by_stem(images_folder, SUFFIXES)
    masks = _by_stem(masks_folder, {".png"})
    if not images:
        raise BadInput(f"{images_folder} holds no images: {LAYOUT}")
    if unpaired := sorted(images.keys() - masks.keys()):
        raise BadInput(
            f"{images[unpaired[0]]} has no mask: put {masks_folder / (unpaired[0] + '.png')} there"
            + f" ({len(unpaired)} such images)" * (len(unpaired) > 1)
        )
    if unpaired := sorted(masks.keys() - images.keys()):
        raise BadInput(f"{masks[unpaired[0]]} has no image in {images_folder}: add it, or remove the mask")
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def _by_stem(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in suffixes or file.name.startswith("."):
            continue
        if file.stem in files:
            raise BadInput(f"{files[file.stem]} and {file} have one mask: rename one of them")
        files[file.stem] = file
    return files


def _mask_labels(image_file: Path, mask_file: Path) -> np.ndarray:
    """The class indices in a mask, whose sides must be its image's."""
    with report_unreadable(str(image_file)), Image.open(image_file) as opened:
        sides = ImageOps.exif_transpose(opened).size if opened.getexif() else opened.size
    with report_unreadable(str(mask_file)), Image.open(mask_file) as opened:
        labels = np.unique(np.asarray(mask_indices(opened, mask_file)))
        if opened.size != sides:
            raise BadInput(
                f"{mask_file} is {opened.width}x{opened.height}, its image {sides[0]}x{sides[1]}: "
                "a mask has its image's sides"
            )
    return labels[labels != IGNORE_INDEX]


def _class_names(folder: Path) -> tuple[str, ...]:
    file = folder / "classes.txt"
    if not file.is_file():
        return ()
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except ValueError:
        raise BadInput(f"{file} is no UTF-8 text: write one class per line") from None
    names = [name for name in names if name]
    if len(set(names)) < len(names) or len(names) > IGNORE_INDEX:
        raise BadInput(f"{file} must name each class once, at most {IGNORE_INDEX}: write one per line")
    return tuple(names)
