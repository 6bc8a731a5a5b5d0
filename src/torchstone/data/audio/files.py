"""Sound files of any rate, channels and length as mono waves; recordings of digits and letters."""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data import download
from torchstone.errors import BadInput

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
MIN_SECONDS = 0.05  # seconds
SILENCE_PEAK = 1e-4  # of full scale: 80 dB below it
MAX_CLIPPED = 0.01  # share of samples
CLIPPING_PEAK = 0.25  # of full scale: quieter sound stands still at its peak where it has few levels

CAPTCHA = (
    "captcha==0.7.1",
    "8b73b5aba841ad1e5bdb856205bf5f09560b728ee890eb9dae42901219c8c599",
    0.2,
)
FSDD_NAME = re.compile(r"(?:.*/)?([0-9])_([^_/]+)_([0-9]+)\.wav")  # the dataset's names of its files


class Recording(NamedTuple):
    """A wave whose peak is ±1, what is said, by whom, and where it is from."""

    wave: Float[Tensor, " samples"]
    text: str
    speaker: str
    name: str


def read_audio(file: str | Path | io.BytesIO, rate: int, name: str = "") -> Float[Tensor, " samples"]:
    """A sound as one channel (the mean of all) at `rate` samples a second, its peak at ±1.

    Args:
        file: WAV, FLAC, OGG, MP3 or AIFF, of any rate, channels and length.
        name: what to call it in a message, by default its path.

    Raises:
        BadInput: no such file, not readable as sound, empty, silent, clipped (more than 1 % of its
            samples stand still at the peak), shorter than 0.05 s, or its channels cancel out.
    """
    name = name or str(file)
    soundfile = _imported("soundfile")
    if isinstance(file, str | Path) and not Path(file).is_file():
        raise BadInput(f"there is no sound file {name}: give a WAV, FLAC or OGG file")
    try:
        channels, own = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError, OSError) as error:
        said = str(error).strip().rstrip(".").splitlines()[-1].rpartition(": ")[2]
        raise BadInput(f"{name} cannot be read as sound ({said}): give WAV, FLAC or OGG") from None
    if not len(channels):
        raise BadInput(f"{name} is empty: it holds no samples")
    if not np.isfinite(channels).all():
        raise BadInput(f"{name} holds samples that are no finite numbers: write it anew")
    if (peak := float(np.abs(channels).max())) < SILENCE_PEAK:
        said = f"its peak is {20 * np.log10(peak):.0f} dB" if peak else "all its samples are 0"
        raise BadInput(f"{name} is silent ({said}): record it louder")
    if (share := clipped_fraction(channels)) > MAX_CLIPPED:
        raise BadInput(
            f"{name} is clipped: {share:.1%} of its samples stand still at the peak, and {MAX_CLIPPED:.0%} "
            "may; record it at a lower level"
        )
    if len(channels) < MIN_SECONDS * own:
        raise BadInput(f"{name} lasts {len(channels) / own:.3f} s, at least {MIN_SECONDS} are needed")
    wave = channels.mean(1)
    if np.abs(wave).max() < SILENCE_PEAK:
        raise BadInput(f"the channels of {name} cancel each other out: give it one channel")
    if own != rate:
        wave = _imported("soxr").resample(wave, own, rate)
    wave = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    return wave / wave.abs().max()


def clipped_fraction(channels: Float[np.ndarray, "samples channels"]) -> float:
    """The share of samples that are one of three or more equal ones in a row at the highest or lowest
    value of their channel, where that is loud."""
    count = 0
    for one in channels.T:
        for peak in (one.max(), one.min()):
            if abs(peak) < CLIPPING_PEAK:
                continue
            there = one == peak
            runs = there[:-2] & there[1:-1] & there[2:]  # begins of three in a row
            inside = np.zeros(len(one) + 2, dtype=bool)
            for place in range(3):
                inside[place : place + len(runs)] |= runs
            count += int(inside.sum())
    return count / channels.size


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # or the library that it wraps is not there
        raise BadInput(f"to read sound, install {name}: pip install 'torchstone[audio]'") from None


def find_audio_files(folder: Path) -> list[Path]:
    """The sound files in a folder and those below it, by name."""
    found = (f for f in folder.rglob("*") if f.is_file() and f.suffix.lower() in EXTENSIONS)
    return sorted(f for f in found if not f.name.startswith("."))


def expand_audio_paths(inputs: Sequence[str | Path]) -> list[Path]:
    """Sound files that a person named, those of a folder in its place.

    Raises:
        BadInput: a folder without any.
    """
    found: list[Path] = []
    for path in map(Path, inputs):
        inside = find_audio_files(path) if path.is_dir() else [path]
        if not inside:
            raise BadInput(f"{path} holds no sound files: give WAV, FLAC or OGG")
        found += inside
    return found


def read_fsdd(path: Path, rate: int) -> dict[str, list[Recording]] | None:
    """The Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0) by split, if `path` is that.

    `path` is its `recordings.zip`, or a folder that holds it, its folder `recordings`, or the files
    `DIGIT_SPEAKER_INDEX.wav`. Its official test are the recordings 0 to 4 of each digit and speaker;
    for validation the next three are set aside here.

    Raises:
        BadInput: a file cannot be used; a split has none.
    """
    opened = list(_digit_files(path))
    if not opened:
        return None
    parts: dict[str, list[Recording]] = {"train": [], "val": [], "test": []}
    for digit, speaker, index, file, name in sorted(opened, key=lambda each: each[:3]):
        split = "test" if index < 5 else "val" if index < 8 else "train"
        parts[split].append(Recording(read_audio(file, rate, name), digit, speaker, name))
    if lacking := [split for split, each in parts.items() if not each]:
        raise BadInput(
            f"{path} has no {lacking[0]} recordings: test are those of index 0 to 4, val 5 to 7, train "
            "the rest"
        )
    return parts


def _digit_files(path: Path) -> Iterator[tuple[str, str, int, Any, str]]:
    """Digit, speaker, index, file and name of each recording; nothing if there are other sounds."""
    if path.is_dir():
        if (packed := path / "recordings.zip").is_file():
            path = packed
        else:
            inner = path / "recordings"
            files = find_audio_files(inner if inner.is_dir() else path)
            matches = [(FSDD_NAME.fullmatch(file.name), file) for file in files]
            if all(match for match, _ in matches):
                for match, file in matches:
                    assert match
                    yield match[1], match[2], int(match[3]), file, str(file)
            return
    if path.suffix != ".zip":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if match := FSDD_NAME.fullmatch(name):
                    data = io.BytesIO(archive.read(name))
                    yield match[1], match[2], int(match[3]), data, f"{name} in {path}"
    except (zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{path} is no whole zip file ({error}): copy it again") from None


def read_captcha(rate: int) -> list[Recording]:
    """One recording each of 0 to 9 and A to Z in one voice, from the captcha 0.7.1 archive (8 kHz,
    BSD-3-Clause)."""
    found = []
    with download.archive(*CAPTCHA) as opened:
        for one in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            name = f"captcha/data/{one}/default.wav"
            wave = read_audio(io.BytesIO(opened.read(name)), rate, name)
            found.append(Recording(wave, one, "captcha", name))
    return found
