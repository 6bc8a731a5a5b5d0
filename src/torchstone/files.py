"""Files that are written all or nothing; JSON of other people."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
