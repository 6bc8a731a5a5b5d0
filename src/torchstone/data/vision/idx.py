"""A folder of IDX files, as LeCun published MNIST."""

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from torchstone.data.splits import ImageArray, Source, full_subset, make_source
from torchstone.data.text_files import read_class_names
from torchstone.errors import BadInput

SPLITS = {"train": "train", "t10k": "test"}
RANK = {"images": 3, "labels": 1}
NAME = re.compile(r"(train|t10k)-(images(?=.idx3)|labels(?=.idx1))[-.]idx\d-ubyte(\.gz)?")


def find_files(path: Path) -> dict[tuple[str, str], Path]:
    """The IDX files of a folder by (`train` or `t10k`, `images` or `labels`), named as MNIST's are."""
    matches = {file: NAME.fullmatch(file.name) for file in sorted(path.iterdir()) if file.is_file()}
    return {(match[1], match[2]): file for file, match in matches.items() if match}


def read(path: Path) -> Source:
    """Both splits of a folder. Classes are the labels that occur in training, named by the lines of
    `classes.txt` if there is one: from 0 on, or from 1 on where as many lines and no 0 say so."""
    files, arrays = find_files(path), {}
    for prefix, split in SPLITS.items():
        for content, rank in RANK.items():
            if (prefix, content) not in files:
                raise BadInput(f"{path} lacks {prefix}-{content}-idx{rank}-ubyte (or the same with .gz)")
        images, labels = (_read_array(files[prefix, content], content) for content in RANK)
        if len(images) != len(labels):
            raise BadInput(f"{path}: {prefix} has {len(images)} images but {len(labels)} labels")
        arrays[split] = ImageArray(images, files[prefix, "images"].name), labels
    labels = [int(label) for label in np.unique(arrays["train"][1])]
    if unknown := sorted({int(label) for label in arrays["test"][1]} - set(labels)):
        raise BadInput(f"{path}: t10k has the label {unknown[0]}, train has not")
    names, note = read_class_names(path), ""
    if len(names) == labels[-1] and labels[0] == 1:
        names, note = ("", *names), ", labels count from 1"
    if names and len(names) <= labels[-1]:
        raise BadInput(f"{path} has labels up to {labels[-1]}, but classes.txt names {len(names)} classes")
    if absent := [name for i, name in enumerate(names) if name and i not in labels]:
        note += f", no image of {', '.join(map(repr, absent[:8]))}{' …' * (len(absent) > 8)}"
    classes = tuple(names[label] if names else str(label) for label in labels)
    subsets = {
        split: full_subset(pool, np.searchsorted(labels, each)) for split, (pool, each) in arrays.items()
    }
    return make_source(str(path), classes, subsets, f"{path.name}: IDX files{note}")


def _read_array(file: Path, content: str) -> np.ndarray:
    """One IDX file: magic number, one big-endian length per dimension, then the bytes."""
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{file} is damaged or truncated ({error}); download it again") from None
    rank = RANK[content]
    if data[:4] != bytes((0, 0, 8, rank)):
        raise BadInput(
            f"{file} is not an IDX file of {content}: it starts with {data[:4].hex()}, not 0000080{rank}"
        )
    header = 4 + 4 * rank
    shape = tuple(int(n) for n in np.frombuffer(data[4:header].ljust(4 * rank, b"\0"), ">u4"))
    if len(data) - header != int(np.prod(shape)) or not shape[0]:
        raise BadInput(
            f"{file} is truncated: {max(len(data) - header, 0)} bytes of {content}, "
            f"{int(np.prod(shape))} promised; download it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
