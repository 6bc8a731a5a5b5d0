"""Images in a folder or a zip file, with a sub-folder for each class."""

import functools
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from torchstone.data.bad_files import DAMAGED_ZIP
from torchstone.data.splits import Source, find_splits, full_subset, make_source, split_of
from torchstone.errors import BadInput

READ_TWICE = 2**30  # bytes; of a larger set only every 100th file is read to know it again
SAMPLED = 100
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
}
NO_IMAGES = (".", "__MACOSX", "@eaDir")  # names that begin so hold copies and thumbnails of other files


@dataclass(frozen=True)
class FilePool:
    """Image files below a folder, or in a zip file (`modified_ns` is its modification time)."""

    root: Path
    names: list[str]
    modified_ns: int | None = None

    def __getitem__(self, i: int) -> Image.Image:
        if self.modified_ns is None:
            return Image.open(self.root / self.names[i])
        # One handle per process: forked processes would share one file position.
        archive = _open_zip(self.root, self.modified_ns, os.getpid())
        return Image.open(io.BytesIO(archive.read(self.names[i])))

    def describe(self, i: int) -> str:
        return str(self.root / self.names[i])

    def content(self, i: int) -> Any:
        """The file's bytes; where there are too many to read twice, of most files the name and size."""
        name = self.names[i]
        if self._is_large and i % SAMPLED:
            return name, self._sizes[i]
        try:
            if self.modified_ns is None:
                return (self.root / name).read_bytes()
            return _open_zip(self.root, self.modified_ns, os.getpid()).read(name)
        except DAMAGED_ZIP:  # it is named, or left out, where it is decoded
            return name

    @functools.cached_property
    def _sizes(self) -> list[int]:
        if self.modified_ns is None:
            return [(self.root / name).stat().st_size for name in self.names]
        archive = _open_zip(self.root, self.modified_ns, os.getpid())
        return [archive.getinfo(name).file_size for name in self.names]

    @functools.cached_property
    def _is_large(self) -> bool:
        return sum(self._sizes) > READ_TWICE


@functools.lru_cache(maxsize=8)
def _open_zip(path: Path, modified_ns: int, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def read(path: Path) -> Source:
    """A folder of class folders, or of `train`, `val` and `test`: folders of them, or zip files."""
    names = (file.name for file in sorted(path.glob("*.zip")))
    zips = {split: path / name for split, name in find_splits(names, path, are_files=True).items()}
    if "train" in zips and len(zips) > 1:
        trees = {split: _class_folders(_tree(_zip_names(file)), file) for split, file in zips.items()}
        return _make_source(path, trees, zips, f"zip files of {' and '.join(sorted(zips))}")
    return _from_one_root(path, _walk(path), "folder")


def read_zip(path: Path) -> Source:
    """A zip file with the layout of such a folder."""
    return _from_one_root(path, _zip_names(path), "zip file")


def _zip_names(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path} is neither a folder nor a zip file of images")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except DAMAGED_ZIP as error:
        raise BadInput(f"{path} is not a complete zip file ({error}): copy it again") from None


def _from_one_root(path: Path, names: list[str], kind: str) -> Source:
    """All published splits below one root, or none published."""
    folders = _class_folders(_tree(names), path)
    splits = _find_split_folders(path, folders)
    trees = {split: _folders(_unwrap_split(folders[name])) for split, name in splits.items()}
    trees = trees or {"train": folders}
    total = len(_files(_tree(names)))
    return _make_source(path, trees, dict.fromkeys(trees, path), kind, total)


def _find_split_folders(path: Path, folders: dict[str, dict]) -> dict[str, str]:
    """The folders that are splits, by split; none if all are classes, for `train` may be one.

    Raises:
        BadInput: folders that may be either.
    """
    named = [name for name in folders if split_of(name)]
    others = [name for name in folders if name not in named and _image_names(_files(folders[name]))]
    if not named or len(folders) == 1:
        return {}
    trains = [name for name in named if split_of(name) == "train"]
    holds_classes = any(len(_with_images(folders[name])) > 1 for name in trains)
    if not trains and len(named) < 2:
        return {}
    if trains and others and len(named) == 1 and not holds_classes:
        return {}
    if not trains and not others:
        raise BadInput(f"{path} has {' and '.join(named)}, but no train: add it")
    if others:
        raise BadInput(
            f"{path} has {', '.join(named)}, which may be splits, beside {', '.join(others[:4])}: move what "
            f"is no split out of it; if all are classes, rename {named[0]}"
        )
    return find_splits(named, path)


def _unwrap_split(tree: dict) -> dict:
    """A split without a folder of the same name around its classes: `train/train/cat`."""
    while len(inner := _folders(tree)) == 1 and split_of(next(iter(inner))) and _with_images(inner):
        (tree,) = inner.values()
    return tree


def _with_images(tree: dict) -> list[str]:
    return [name for name, inner in _folders(tree).items() if _image_names(_files(inner))]


def _class_folders(tree: dict, path: Path) -> dict[str, dict]:
    """The class (or split) folders. A lone folder of folders is a wrapper, as most zip files have."""
    if not _image_names(_files(tree)):
        raise BadInput(f"{path} holds no images; give a folder with a sub-folder for each class")
    while len(inner := _folders(tree)) == 1 and _folders(only := next(iter(inner.values()))):
        tree = only
    if not (folders := _folders(tree)):
        raise BadInput(f"{path} holds images but no sub-folders; put each class into its own")
    return folders


def _make_source(
    path: Path,
    splits: dict[str, dict[str, dict]],
    roots: dict[str, Path],
    kind: str,
    total: int | None = None,
) -> Source:
    """Splits of classes of files, each split below its root (a folder or a zip file)."""
    class_names = tuple(splits["train"])
    subsets = {}
    for split, classes in splits.items():
        if unknown := sorted(set(classes) - set(class_names)):
            raise BadInput(f"{path}: class {unknown[0]!r} is in {split} but not in train")
        files = [
            (name, class_names.index(label))
            for label, inner in classes.items()
            for name in _image_names(_files(inner))
        ]
        if not files:
            raise BadInput(f"{path}: {split} holds no images in class sub-folders")
        labels = np.array([label for _, label in files])
        root = roots[split]
        modified_ns = None if root.is_dir() else root.stat().st_mtime_ns
        subsets[split] = full_subset(FilePool(root, [name for name, _ in files], modified_ns), labels)
    description = f"{path.name}: {kind}, {len(class_names)} classes"
    used = sum(len(subset.labels) for subset in subsets.values())
    if others := (used if total is None else total) - used:
        description += f", {others} other file{'s' * (others != 1)} skipped"
    return make_source(str(path), class_names, subsets, description)


def _walk(root: Path) -> list[str]:
    """All names below `root`, as in a zip file: relative, with `/`, folders ending in it."""
    names = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not _is_loop(folder, name)]
        relative = Path(folder).relative_to(root).as_posix()
        prefix = "" if relative == "." else relative + "/"
        names += [f"{prefix}{name}/" for name in folders] + [prefix + name for name in files]
    return sorted(names)


def _is_loop(folder: str, name: str) -> bool:
    """Whether a folder is a link to one that it is in."""
    inner = os.path.join(folder, name)
    target = os.path.join(os.path.realpath(inner), "")
    return os.path.islink(inner) and os.path.join(os.path.realpath(folder), "").startswith(target)


def _tree(names: list[str]) -> dict:
    """Nested dictionaries of folders; a file is its full name. Hidden files are left out."""
    root: dict = {}
    for name in names:
        parts = PurePosixPath(name).parts
        if any(part.startswith(NO_IMAGES) for part in parts):
            continue
        node = root
        for part in parts if name.endswith("/") else parts[:-1]:
            node = node.setdefault(part, {})
        if not name.endswith("/"):
            node[parts[-1]] = name
    return root


def _folders(tree: dict) -> dict[str, dict]:
    return {name: inner for name, inner in sorted(tree.items()) if isinstance(inner, dict)}


def _files(tree: dict) -> list[str]:
    """Every file in and below a folder, sorted by name."""
    files = []
    for _, inner in sorted(tree.items()):
        files += _files(inner) if isinstance(inner, dict) else [inner]
    return files


def _image_names(names: list[str]) -> list[str]:
    return [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
