"""Segmentation data of one's own: a folder of images and a folder of masks, checked before training."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from torchstone.data.bad_files import read_good
from torchstone.data.splits import find_splits
from torchstone.data.text_files import read_class_names
from torchstone.data.vision.image_folder import SUFFIXES
from torchstone.data.vision.preprocess import Levels, decode, deep_values, report_unreadable, stored_mode
from torchstone.errors import BadInput

IGNORE_INDEX = 255  # the label of pixels without a class: never trained on, never counted
NEAREST = Image.Resampling.NEAREST
THREADS = min(8, os.cpu_count() or 1)
LAYOUT = "give a folder with images/ and masks/, PNG masks with the names of the images"


class Labeled(NamedTuple):
    """An image, its mask, and the values that are left in the mask once it is fitted."""

    image: Path
    mask: Path
    labels: np.ndarray


@dataclass(frozen=True)
class SegmentationFiles:
    """Pairs of image and mask on disk, decoded and fitted on access."""

    pairs: tuple[Labeled, ...]
    size: int
    levels: Levels = None

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (3, size, size) and (size, size): the shorter side resized, then center-cropped."""
        image_file, mask_file, _ = self.pairs[i]
        with report_unreadable(str(image_file)), Image.open(image_file) as opened:
            image = decode(opened, 3, self.levels)
        with report_unreadable(str(mask_file)), Image.open(mask_file) as opened:
            labels = mask_indices(opened, mask_file)
        pixels = _fit(image, self.size, Image.Resampling.BILINEAR)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), _fit(labels, self.size, NEAREST)

    def read_deep(self, i: int) -> np.ndarray | None:
        """The `deep_values` of image `i`."""
        file = self.pairs[i].image
        with report_unreadable(str(file)), Image.open(file) as opened:
            return deep_values(opened)


def _fit(image: Image.Image, side: int, resampling: Image.Resampling) -> np.ndarray:
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    left, top = ((each - side) // 2 for each in size)
    return np.asarray(image.resize(size, resampling).crop((left, top, left + side, top + side)))


def mask_indices(image: Image.Image, file: Path) -> Image.Image:
    """A mask's class indices as stored in the file, at any depth and whatever colors its palette has."""
    # gray of 2 or 4 bits: Pillow would stretch the numbers to 0..255
    stored = stored_mode(image)
    stretch = {"L;2": 85, "L;4": 17}.get(stored, 1)
    if image.mode in ("L", "P", "1"):
        # through the bare numbers: Pillow would turn a palette's indices into its colors
        return Image.fromarray(np.asarray(image).astype(np.uint8) // np.uint8(stretch))
    values = np.asarray(image)
    has_alpha = stored in ("LA", "RGBA")
    is_gray = (
        stored in ("LA", "RGB", "RGBA") and (values[..., :1] == values[..., : 3 - 2 * (stored == "LA")]).all()
    )
    if is_gray and (not has_alpha or (values[..., -1] == 255).all()):  # gray of 8 bits, and opaque
        return Image.fromarray(np.ascontiguousarray(values[..., 0]))
    if image.mode.startswith("I"):
        if values.min(initial=0) >= 0 and values.max(initial=0) <= IGNORE_INDEX:
            return Image.fromarray(values.astype(np.uint8))
        raise BadInput(
            f"{file} holds values from {values.min()} to {values.max()}: a mask's are class indices, "
            f"0 to {IGNORE_INDEX - 1}, and {IGNORE_INDEX} for pixels to ignore"
        )
    raise BadInput(
        f"{file} is no index mask (its mode is {image.mode}): save an 8-bit PNG, gray or with a "
        f"palette, whose values are the class indices, {IGNORE_INDEX} for pixels to ignore"
    )


def read(
    folder: Path, size: int, *, skip: bool = False
) -> tuple[list[Labeled], dict[str, np.ndarray], tuple[str, ...], str]:
    """Pairs of files to be fitted to `size` x `size`, with their labels; the rows of each split, the classes,
    and a description.

    Pairs whose mask is all void are left out, and counted in the description.

    Raises:
        BadInput: an image without a mask or the reverse, sides that differ, labels out of range.
    """
    roots = {"train": folder}
    names = find_splits((f.name for f in sorted(folder.iterdir()) if f.is_dir()), folder)
    split_folders = {split: folder / name for split, name in names.items()}
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
    read_pair = partial(_mask_labels, size=size, decodes=skip)
    read, good, left_out = read_good(lambda pair: read_pair(*pair), pairs, skip=skip, threads=THREADS)
    stored, fitted = zip(*read, strict=True)
    rows = {split: np.flatnonzero(np.isin(good, index)) for split, index in rows.items()}
    pairs = [pairs[i] for i in good]
    if empty := [split for split, index in rows.items() if not len(index)]:
        raise BadInput(f"the {empty[0]} split of {folder} has no image left{left_out}")
    names = read_class_names(folder, IGNORE_INDEX)
    present = _check_labels(folder, pairs, stored, names)
    classes = names or ("background", *(f"class {i}" for i in range(1, present[-1] + 1)))
    has_label = np.array([(labels != IGNORE_INDEX).any() for labels in fitted])
    numbers = np.cumsum(has_label) - 1  # of the pairs that remain
    remaining = {split: numbers[index[has_label[index]]] for split, index in rows.items()}
    labeled = [Labeled(*pair, labels) for pair, labels in zip(pairs, fitted, strict=True)]
    description = f"{folder.name}: {len(pairs)} images with masks, {len(classes)} classes{left_out}"
    if void := int((~has_label).sum()):
        description += f", {void} left out whose mask{'s are' if void > 1 else ' is'} all void"
    if absent := [name for i, name in enumerate(classes) if i not in present]:
        shown = ", ".join(map(repr, absent[:8])) + " …" * (len(absent) > 8)
        description += f", in no mask: {shown}"
    return (
        [each for each, has in zip(labeled, has_label, strict=True) if has],
        remaining,
        classes,
        description,
    )


def _check_labels(
    folder: Path,
    pairs: list[tuple[Path, Path]],
    labels_of_masks: Sequence[np.ndarray],
    names: tuple[str, ...],
) -> list[int]:
    """The labels that occur: indices of classes, at least two, and nothing else that they might be.

    Raises:
        BadInput: a label without a name, fewer than two classes, or values that look like gray levels.
    """
    for (_, mask), labels in zip(pairs, labels_of_masks, strict=True):
        largest = max((int(label) for label in labels if label != IGNORE_INDEX), default=0)
        if names and largest >= len(names):
            raise BadInput(
                f"{mask} has the label {largest}, but classes.txt names {len(names)} classes, "
                f"0 to {len(names) - 1} ({IGNORE_INDEX}: ignored); if labels count from 1, name 0 in the "
                "first line"
            )
    values = sorted({int(label) for labels in labels_of_masks for label in labels})
    present = [value for value in values if value != IGNORE_INDEX]
    if len(present) < 2 and IGNORE_INDEX in values:
        raise BadInput(
            f"the masks in {folder} hold {' and '.join(map(str, values))} only, and {IGNORE_INDEX} stands "
            f"for pixels to ignore: if it is a class, make it {next(i for i in (1, 0) if i not in present)}"
        )
    if len(present) < 2:
        raise BadInput(
            f"the masks in {folder} have one class only: give each class its index, 0 for "
            f"background ({IGNORE_INDEX} stands for pixels to ignore)"
        )
    if not names and 1 + present[-1] > 2 * len(present):
        shown = ", ".join(map(str, present[:8])) + " …" * (len(present) > 8)
        raise BadInput(
            f"the masks in {folder} hold the values {shown}: if these are gray levels, save the classes as "
            f"0 to {len(present) - 1}; if they are indices, name all {1 + present[-1]} classes in classes.txt"
        )
    return present


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
        if other := next(masks_folder.glob(f"{glob.escape(unpaired[0])}.*"), None):
            raise BadInput(
                f"{other} is no PNG: save masks as PNG, whose numbers are exact, with the class indices as "
                "values"
            )
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


def _mask_labels(
    image_file: Path, mask_file: Path, size: int, *, decodes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The values in a mask, whose sides must be its image's, and those left when it is fitted.

    Of the image the head is read; with `decodes` all of it.
    """
    with report_unreadable(str(image_file)), Image.open(image_file) as opened:
        sides = ImageOps.exif_transpose(opened).size if opened.getexif() or decodes else opened.size
    with report_unreadable(str(mask_file)), Image.open(mask_file) as opened:
        mask = mask_indices(opened, mask_file)
        if opened.size != sides:
            raise BadInput(
                f"{mask_file} is {opened.width}x{opened.height}, its image {sides[0]}x{sides[1]}: "
                "a mask has its image's sides"
            )
    return np.unique(np.asarray(mask)), np.unique(_fit(mask, size, NEAREST))
