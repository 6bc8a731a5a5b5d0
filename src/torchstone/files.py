"""Files that are written all or nothing, and files of other people: JSON, pickles, names of data."""

import contextlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from torchstone.errors import BadInput, first_line

SKIP = "skip-bad:"
KINDS = "images, segmentation, captions, labelled text, speech, speakers and MIDI files"  # that know it
# what the unpickler raises on bytes that are no pickle
DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


@contextlib.contextmanager
def atomic_write(path: Path) -> Generator[Path]:
    """Yield a sibling of `path` to write a file or folder to; it takes the place of `path` at the end.

    If the body raises, what was written is removed and `path` stays as it was. The sibling keeps the
    suffix of `path`, since many writers choose their format by it, and bears the process's number, so
    that two processes do not write to the same one.
    """
    new = path.with_name(f"{path.stem}.new-{os.getpid()}{path.suffix}")
    _remove(new)
    try:
        yield new
        os.replace(new, path)
    finally:
        _remove(new)


def parse_json(text: str) -> Any:
    """What JSON text says.

    Raises:
        ValueError: it is no JSON, is nested more deeply than can be read, or holds half of a character that
            UTF-16 has two codes for, which no file can be written with.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(content, ensure_ascii=False).encode()
    return content


def read_pickle(file: Path) -> Any:
    """A `torch.save` file, tensors and plain containers only.

    Raises:
        BadInput: it would run code, or is no such file.
    """
    import torch  # here, since most of what writes files needs none

    if what := foreign_format(file):
        raise BadInput(f"{file} {what}")
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        what = next((line for line in str(error).splitlines() if "GLOBAL" in line), "")
        what = what.strip().split(" was not")[0].removeprefix("WeightsUnpickler error: ")
        raise BadInput(
            f"{file} holds code and was refused unread ({what or 'not plain tensors'}); "
            "save tensors only, best as .safetensors"
        ) from None
    except DAMAGED as error:
        raise BadInput(f"{file} cannot be read: {first_line(error)}") from None


def foreign_format(file: Path) -> str:
    """What a file is that should hold weights, where it begins as another format does; empty where it does
    not."""
    try:
        with file.open("rb") as opened:
            head = opened.read(200)
        names = zipfile.ZipFile(file).namelist() if head.startswith(b"PK") else []
    except (*DAMAGED, zipfile.BadZipFile, NotImplementedError):
        return ""
    if b"\noid sha256:" in head:
        return "is a pointer of Git LFS, not the file itself: fetch it with git lfs pull"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "is a web page, not weights: fetch it again"
    if any("/code/" in name for name in names):
        return "is a TorchScript archive, which is code: save its state_dict()"
    if names and all(name.endswith(".npy") for name in names):
        return "is an archive of NumPy: save the tensors by torch.save, or as .safetensors"
    kinds = {b"\x89HDF": "HDF5 (Keras)", b"GGUF": "GGUF", b"\x08\x07": "ONNX", b"\x08\x08": "ONNX"}
    known = next((kind for begins, kind in kinds.items() if head.startswith(begins)), None)
    return (
        "" if known is None else f"is a file of {known}: save the weights by torch.save, or as .safetensors"
    )


def refuse_skip(spec: str | Path) -> None:
    """For readers of what is no set of files or rows that are good or bad on their own.

    Raises:
        BadInput: the data are named `skip-bad:SPEC`.
    """
    if str(spec).startswith(SKIP):
        name = str(spec).removeprefix(SKIP)
        raise BadInput(f"{name} has nothing that --skip-bad could leave out: it is for {KINDS}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
