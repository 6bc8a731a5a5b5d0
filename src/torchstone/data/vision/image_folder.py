"""Pictures in a folder or a zip file, a sub-folder for each class."""

import functools
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from torchstone.data.splits import SPLIT_NAMES, Source, full_subset, make_source
from torchstone.errors import BadInput

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class FilePool:
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


def read(path: Path) -> Source:
    """A folder of class folders, or of `train`, `val` and `test`: folders of them, or zip files."""
    zips = {SPLIT_NAMES[file.stem]: file for file in sorted(path.glob("*.zip")) if file.stem in SPLIT_NAMES}
    if "train" in zips and len(zips) > 1:
        trees = {split: _class_folders(_tree(_listed(file)), file) for split, file in zips.items()}
        return _source(path, trees, zips, f"zip files of {' and '.join(sorted(zips))}")
    return _from_one_root(path, _walk(path), "folder")


def read_zip(path: Path) -> Source:
    """A zip file laid out as such a folder."""
    return _from_one_root(path, _listed(path), "zip file")


def _listed(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path} is neither a folder nor a zip file of pictures")
    with zipfile.ZipFile(path) as opened:
        return opened.namelist()


def _from_one_root(path: Path, names: list[str], kind: str) -> Source:
    """All splits in one place, or none published."""
    folders = _class_folders(_tree(names), path)
    published = "train" in folders and len(folders) > 1 and set(folders) <= set(SPLIT_NAMES)
    trees = {SPLIT_NAMES[k]: _folders(v) for k, v in folders.items()} if published else {"train": folders}
    total = len(_files(_tree(names)))
    return _source(path, trees, dict.fromkeys(trees, path), kind, total)


def _class_folders(tree: dict, path: Path) -> dict[str, dict]:
    """The sub-folders that count. A lone folder of folders is a wrapper, as most zip files have."""
    if not _image_names(_files(tree)):
        raise BadInput(f"{path} holds no pictures; give a folder with a sub-folder for each class")
    while len(inner := _folders(tree)) == 1 and _folders(lone := next(iter(inner.values()))):
        tree = lone
    if not (folders := _folders(tree)):
        raise BadInput(f"{path} holds pictures but no sub-folders; put each class into its own")
    return folders


def _source(
    path: Path,
    splits: dict[str, dict[str, dict]],
    roots: dict[str, Path],
    kind: str,
    total: int | None = None,
) -> Source:
    """Splits of classes of files, each split below its root (a folder or a zip file)."""
    known = tuple(splits["train"])
    parts = {}
    for split, classes in splits.items():
        if strange := sorted(set(classes) - set(known)):
            raise BadInput(f"{path}: class {strange[0]!r} is in {split} but not in train")
        found = [(n, known.index(c)) for c, inner in classes.items() for n in _image_names(_files(inner))]
        if not found:
            raise BadInput(f"{path}: {split} holds no pictures in class sub-folders")
        labels = np.array([label for _, label in found])
        root = roots[split]
        stamp = None if root.is_dir() else root.stat().st_mtime_ns
        parts[split] = full_subset(FilePool(root, [name for name, _ in found], stamp), labels)
    note = f"{path.name}: {kind}, {len(known)} classes"
    used = sum(len(part.labels) for part in parts.values())
    if others := (used if total is None else total) - used:
        note += f", {others} other file{'s' * (others != 1)} skipped"
    return make_source(str(path), known, parts, note)


def _walk(root: Path) -> list[str]:
    """All names below `root`, as in a zip file: relative, with `/`, folders ending in it."""
    names = []
    for folder, below, files in os.walk(root, followlinks=True):
        here = Path(folder).relative_to(root).as_posix()
        prefix = "" if here == "." else here + "/"
        names += [f"{prefix}{name}/" for name in below] + [prefix + name for name in files]
    return sorted(names)


def _tree(names: list[str]) -> dict:
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


def _image_names(names: list[str]) -> list[str]:
    return [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
