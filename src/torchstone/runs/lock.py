"""One process a run folder: a lock that its process holds while it trains there.

The operating system gives it back when the process ends, however that comes about, so a killed run can be
resumed at once. File systems and systems without such locks do without.
"""

import contextlib
import os
import platform
from collections.abc import Generator
from pathlib import Path

from torchstone.errors import BadInput

NAME = ".lock"  # holds who has it; of a run that was killed it stays, and says nothing then


class InUse(BadInput):
    """Another process has the folder."""


@contextlib.contextmanager
def locked(folder: Path) -> Generator[Path]:
    """`folder`, made if there is none, for this process alone. What was made and is empty at the end goes.

    Raises:
        InUse: another process trains there.
        BadInput: the system does not let the folder be made.
    """
    created = _make(folder)
    handle = _take(folder)
    try:
        yield folder
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                (folder / NAME).unlink()
            os.close(handle)
        with contextlib.suppress(OSError):  # it is not empty, or somebody else's by now
            for each in created:
                each.rmdir()


@contextlib.contextmanager
def locked_free(folder: Path) -> Generator[Path]:
    """The same of `folder` or, where that has something in it or is another process's, of the first with a
    number behind its name that has not."""
    number, candidate = 1, folder
    with contextlib.ExitStack() as ours:
        while True:
            if not candidate.exists() or (candidate.is_dir() and not holds_anything(candidate)):
                with contextlib.suppress(InUse), contextlib.ExitStack() as attempt:
                    attempt.enter_context(locked(candidate))
                    if not holds_anything(candidate):  # nobody was faster
                        ours.push(attempt.pop_all())
                        break
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")
        yield candidate


def holds_anything(folder: Path) -> bool:
    """Whether a folder has more in it than a lock."""
    return any(file.name != NAME for file in folder.iterdir())


def _make(folder: Path) -> list[Path]:
    """Make a folder, with those above it; what was made, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise BadInput(f"cannot make the folder {folder} ({why}): choose another --out") from None
    return missing


def _take(folder: Path) -> int | None:
    """The open lock of a folder; None where the system has no locks, or nothing can be written."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        return None
    file = folder / NAME
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None  # whoever writes there says why it cannot be done
        try:
            # one that children of a fork do not inherit: workers that outlive a killed run must not keep it
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise InUse(
                f"{folder} is in use by {holder or 'another process'}: wait until that has ended, or stop it"
            ) from None
        except OSError:
            os.close(handle)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} of {platform.node()}\n".encode())
                return handle
        os.close(handle)  # its holder took it away before we had it
