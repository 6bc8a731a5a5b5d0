"""A folder of IDX files, as LeCun published MNIST."""

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from torchstone.data.splits import ImageArray, Source, full_subset, make_source
from torchstone.errors import BadInput

SPLITS = {"train": "train", "t10k": "test"}
RANK = {"images": 3, "labels": 1}
NAME = re.compile(r"(train|t10k)-(images(?=.idx3)|labels(?=.idx1))[-.]idx\d-ubyte(\.gz)?")


def find_files(path: Path) -> dict[tuple[str, str], Path]:
    """The IDX files of a folder by (`train` or `t10k`, `images` or `labels`), named as MNIST's are."""
    named = {file: NAME.fullmatch(file.name) for file in sorted(path.iterdir()) if file.is_file()}
    return {(match[1], match[2]): file for file, match in named.items() if match}


def read(path: Path) -> Source:
    """Both splits of a folder; classes are numbered from 0."""
    found, parts = find_files(path), {}
    for prefix, split in SPLITS.items():
        for what, rank in RANK.items():
            if (prefix, what) not in found:
                raise BadInput(f"{path} lacks {prefix}-{what}-idx{rank}-ubyte (or the same with .gz)")
        images, labels = (_array(found[prefix, what], what) for what in RANK)
        if len(images) != len(labels):
            raise BadInput(f"{path}: {prefix} has {len(images)} images but {len(labels)} labels")
        parts[split] = full_subset(ImageArray(images, found[prefix, "images"].name), labels)
    count = 1 + max(int(part.labels.max()) for part in parts.values())
    return make_source(str(path), tuple(map(str, range(count))), parts, f"{path.name}: IDX files")


def _array(file: Path, what: str) -> np.ndarray:
    """An IDX file as LeCun published it: magic, one big-endian length a dimension, then the bytes."""
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{file} is damaged or truncated ({error}); fetch it again") from None
    rank = RANK[what]
    if data[:4] != bytes((0, 0, 8, rank)):
        raise BadInput(
            f"{file} is not an IDX file of {what}: it starts with {data[:4].hex()}, not 0000080{rank}"
        )
    head = 4 + 4 * rank
    shape = tuple(int(n) for n in np.frombuffer(data[4:head].ljust(4 * rank, b"\0"), ">u4"))
    if len(data) - head != int(np.prod(shape)) or not shape[0]:
        raise BadInput(
            f"{file} is truncated: {max(len(data) - head, 0)} bytes of {what}, "
            f"{int(np.prod(shape))} promised; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
