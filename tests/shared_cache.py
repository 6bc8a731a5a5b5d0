"""Things that take a while to make, made once for a whole test session, whichever of its processes asks first."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A temporary folder of this session that all of its xdist workers see."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, filled by `make` the first time that any process asks for it; a failure is remembered too."""
    failure = folder.with_name(f"{folder.name}.failed")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if failure.exists():
            raise AssertionError(failure.read_text())
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            unfinished.mkdir(parents=True)
            try:
                make(unfinished)
            except Exception as error:
                failure.write_text(f"{folder.name} could not be made: {type(error).__name__}: {error}")
                raise
            unfinished.rename(folder)
    return folder
