"""A person's own scenes: a folder of pictures and a folder of masks, checked before anything is trained."""

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

IGNORE_INDEX = 255  # the label of pixels that are nobody's: never trained on, never counted
THREADS = min(8, os.cpu_count() or 1)
LAYOUT = "give a folder with images/ and masks/, PNG masks with the names of the pictures"


@dataclass(frozen=True)
class SegmentationFiles:
    """Pairs of picture and mask on disk, decoded and fitted when asked for."""

    pairs: tuple[tuple[Path, Path], ...]
    size: int

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (3, size, size) and (size, size): the shorter side fitted, then the centre cut out."""
        picture, mask = self.pairs[i]
        with report_unreadable(str(picture)), Image.open(picture) as opened:
            image = decode(opened, 3)
        with report_unreadable(str(mask)), Image.open(mask) as opened:
            labels = mask_indices(opened, mask)
        scale = self.size / min(image.size)
        box = (round(image.width * scale), round(image.height * scale))
        left, top = ((side - self.size) // 2 for side in box)
        window = (left, top, left + self.size, top + self.size)
        fitted = np.asarray(image.resize(box, Image.Resampling.BILINEAR).crop(window))
        cut = np.asarray(labels.resize(box, Image.Resampling.NEAREST).crop(window))
        return np.ascontiguousarray(fitted.transpose(2, 0, 1)), cut


def mask_indices(image: Image.Image, file: Path) -> Image.Image:
    """A mask's indices as they stand in the file, whatever its palette shows."""
    if image.mode not in ("L", "P", "1"):
        raise BadInput(
            f"{file} is no index mask (its mode is {image.mode}): save an 8-bit PNG, grey or with a "
            f"palette, whose values are the classes' numbers, {IGNORE_INDEX} for none"
        )
    # through the bare numbers: Pillow would turn a palette's indices into its colours
    return Image.fromarray(np.asarray(image).astype(np.uint8))


def read(
    folder: Path,
) -> tuple[list[tuple[Path, Path]], dict[str, np.ndarray], tuple[str, ...], str]:
    """Pairs of files, which of them are in which split, the classes, and a note.

    Raises:
        BadInput: a picture without mask or the reverse, sides that differ, labels out of range.
    """
    places = {"train": folder}
    given = {SPLIT_NAMES[f.name]: f for f in sorted(folder.iterdir()) if f.name in SPLIT_NAMES and f.is_dir()}
    if "train" in given:
        places = given
    pairs: list[tuple[Path, Path]] = []
    rows = {}
    for split, place in places.items():
        found = _find_pairs(place)
        rows[split] = np.arange(len(pairs), len(pairs) + len(found))
        pairs += found
    missing = 3 - len(rows)
    if len(rows["train"]) < 1 + missing:
        raise BadInput(
            f"{folder} has {len(rows['train'])} picture to train on, too few to cut "
            f"{missing} splits off: give at least {1 + missing}"
        )
    with ThreadPool(THREADS) as threads:
        seen = threads.starmap(_mask_labels, pairs)
    names = _class_names(folder)
    known = len(names) if names else 1 + max(int(labels.max(initial=0)) for labels in seen)
    for (_, mask), labels in zip(pairs, seen, strict=True):
        if len(labels) and labels.max() >= known:
            raise BadInput(
                f"{mask} has the label {labels.max()}, but classes.txt names {known} classes, "
                f"0 to {known - 1} ({IGNORE_INDEX}: none)"
            )
    if known < 2:
        raise BadInput(
            f"the masks in {folder} know one class only: give each class its number, 0 for "
            f"background ({IGNORE_INDEX} stands for pixels to leave out)"
        )
    classes = names or ("background", *(f"class {i}" for i in range(1, known)))
    note = f"{folder.name}: {len(pairs)} pictures with masks, {known} classes"
    return pairs, rows, classes, note


def _find_pairs(place: Path) -> list[tuple[Path, Path]]:
    pictures, masks = place / "images", place / "masks"
    for wanted in (pictures, masks):
        if not wanted.is_dir():
            raise BadInput(f"{wanted} does not exist: {LAYOUT}")
    found = _by_stem(pictures, SUFFIXES)
    labels = _by_stem(masks, {".png"})
    if not found:
        raise BadInput(f"{pictures} holds no pictures: {LAYOUT}")
    if lone := sorted(found.keys() - labels.keys()):
        raise BadInput(
            f"{found[lone[0]]} has no mask: put {masks / (lone[0] + '.png')} there"
            + f" ({len(lone)} such pictures)" * (len(lone) > 1)
        )
    if lone := sorted(labels.keys() - found.keys()):
        raise BadInput(f"{labels[lone[0]]} has no picture in {pictures}: add it, or remove the mask")
    return [(found[stem], labels[stem]) for stem in sorted(found)]


def _by_stem(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in suffixes or file.name.startswith("."):
            continue
        if file.stem in found:
            raise BadInput(f"{found[file.stem]} and {file} have one mask: rename one of them")
        found[file.stem] = file
    return found


def _mask_labels(picture: Path, mask: Path) -> np.ndarray:
    """The class numbers that a mask holds; its sides are its picture's."""
    with report_unreadable(str(picture)), Image.open(picture) as opened:
        sides = ImageOps.exif_transpose(opened).size if opened.getexif() else opened.size
    with report_unreadable(str(mask)), Image.open(mask) as opened:
        labels = np.unique(np.asarray(mask_indices(opened, mask)))
        if opened.size != sides:
            raise BadInput(
                f"{mask} is {opened.width}x{opened.height}, its picture {sides[0]}x{sides[1]}: "
                "a mask has its picture's sides"
            )
    return labels[labels != IGNORE_INDEX]


def _class_names(folder: Path) -> tuple[str, ...]:
    file = folder / "classes.txt"
    if not file.is_file():
        return ()
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except ValueError:
        raise BadInput(f"{file} is no UTF-8 text: write one class a line") from None
    names = [name for name in names if name]
    if len(set(names)) < len(names) or len(names) > IGNORE_INDEX:
        raise BadInput(f"{file} must name each class once, at most {IGNORE_INDEX}: write one a line")
    return tuple(names)
