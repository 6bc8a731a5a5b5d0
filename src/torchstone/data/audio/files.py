"""Sound files of any rate and number of channels as mono waveforms; recordings of digits and letters."""

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
from torchstone.data.bad_files import DAMAGED_ZIP
from torchstone.errors import BadInput, first_line
from torchstone.files import atomic_write

EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
MIN_SECONDS = 0.05
MIN_RATE = 1_000  # of less a minute would become hundreds
SILENCE_PEAK = 1e-4  # of full scale: 80 dB below it
MAX_CLIPPED = 0.01  # share of samples
CLIPPING_PEAK = 0.25  # of full scale: equal samples at a lower peak are due to coarse quantization

CAPTCHA = ("captcha==0.7.1", "8b73b5aba841ad1e5bdb856205bf5f09560b728ee890eb9dae42901219c8c599", 0.2)
FSDD_NAME = re.compile(r"(?:.*/)?([0-9])_([^_/]+)_([0-9]+)\.wav")  # file names of the data set


class Recording(NamedTuple):
    """A waveform with a peak of ±1, its transcript and speaker, and the name of its source."""

    wave: Float[Tensor, " samples"]
    text: str
    speaker: str
    name: str


def read_audio(file: str | Path | io.BytesIO, sample_rate: int, name: str = "") -> Float[Tensor, " samples"]:
    """A sound as one channel (the mean of all), resampled to `sample_rate` and normalized to a peak of ±1.

    Args:
        file: WAV, FLAC, OGG, MP3 or AIFF, of any rate, channels and length.
        name: its name in error messages, by default its path.

    Raises:
        BadInput: no such file, not readable as sound, empty, silent, clipped (more than 1 % of its
            samples repeat the peak), shorter than 0.05 s, of fewer than 1,000 samples a
            second, or its channels cancel out.
    """
    name = name or str(file)
    soundfile = _imported("soundfile")
    if isinstance(file, str | Path) and not Path(file).is_file():
        raise BadInput(f"there is no sound file {name}: give a WAV, FLAC or OGG file")
    try:
        channels, file_rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError, OSError) as error:
        reason = first_line(error).rstrip(".").rpartition(": ")[2]
        raise BadInput(f"{name} cannot be read as sound ({reason}): give WAV, FLAC or OGG") from None
    if not len(channels):
        raise BadInput(f"{name} is empty: it holds no samples")
    if not np.isfinite(channels).all():
        raise BadInput(f"{name} holds samples that are not finite: export it again")
    if file_rate < MIN_RATE:
        raise BadInput(f"{name} states {file_rate} samples a second, and sound has at least {MIN_RATE}")
    if (peak := float(np.abs(channels).max())) < SILENCE_PEAK:
        level = f"its peak is {20 * np.log10(peak):.0f} dB" if peak else "all its samples are 0"
        raise BadInput(f"{name} is silent ({level}): record it louder")
    if (share := clipped_fraction(channels)) > MAX_CLIPPED:
        raise BadInput(
            f"{name} is clipped: {share:.1%} of its samples repeat the peak, more than {MAX_CLIPPED:.0%}; "
            "record it at a lower level"
        )
    if len(channels) < MIN_SECONDS * file_rate:
        seconds = len(channels) / file_rate
        raise BadInput(f"{name} lasts {seconds:.3f} s, at least {MIN_SECONDS} are needed")
    wave = channels.mean(1)
    if np.abs(wave).max() < SILENCE_PEAK:
        raise BadInput(f"the channels of {name} cancel each other out: give it one channel")
    if file_rate != sample_rate:
        wave = _imported("soxr").resample(wave, file_rate, sample_rate)
    wave = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    loudest = float(wave.abs().max())
    if not 0 < loudest < float("inf"):
        problem = f"has nothing left at {sample_rate} Hz" if loudest == 0 else f"has samples up to {peak:.2g}"
        raise BadInput(f"{name} {problem}: export it again, within full scale")
    return wave / loudest


def write_wave(wave: Float[Tensor, " samples"], file: str | Path, sample_rate: int) -> Path:
    """Write a sound as WAV of 16 bits; what is beyond full scale is clipped.

    Raises:
        BadInput: soundfile is not installed, or another ending than `.wav`.
    """
    file = Path(file)
    if file.suffix.lower() != ".wav":
        raise BadInput(f"{file} is no name of a sound: give FILE.wav")
    samples = (wave.detach().cpu().clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
    soundfile = _imported("soundfile")
    with atomic_write(file) as new:
        soundfile.write(new, samples, sample_rate, format="WAV", subtype="PCM_16")
    return file


def clipped_fraction(channels: Float[np.ndarray, "samples channels"]) -> float:
    """The share of samples in runs of three or more equal ones at the highest or lowest value of their
    channel, where that is loud."""
    count = 0
    for channel in channels.T:
        for peak in (channel.max(), channel.min()):
            if abs(peak) < CLIPPING_PEAK:
                continue
            at_peak = channel == peak
            starts = at_peak[:-2] & at_peak[1:-1] & at_peak[2:]  # of three in a row
            in_run = np.zeros(len(channel) + 2, dtype=bool)
            for offset in range(3):
                in_run[offset : offset + len(starts)] |= starts
            count += int(in_run.sum())
    return count / channels.size


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # or the library that it wraps is missing
        raise BadInput(f"to read sound, install {name}: pip install 'torchstone[audio]'") from None


def find_audio_files(folder: Path) -> list[Path]:
    """The sound files in a folder and its sub-folders, sorted by name."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.suffix.lower() in EXTENSIONS)
    return sorted(f for f in files if not f.name.startswith("."))


def expand_audio_paths(inputs: Sequence[str | Path]) -> list[Path]:
    """Sound files, with each folder replaced by the files in it.

    Raises:
        BadInput: a folder without any.
    """
    paths: list[Path] = []
    for path in map(Path, inputs):
        files = find_audio_files(path) if path.is_dir() else [path]
        if not files:
            raise BadInput(f"{path} holds no sound files: give WAV, FLAC or OGG")
        paths += files
    return paths


def read_fsdd(path: Path, sample_rate: int) -> dict[str, list[Recording]] | None:
    """The Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0) by split, if `path` is that.

    `path` is its `recordings.zip`, or a folder that holds it, its folder `recordings`, or the files
    `DIGIT_SPEAKER_INDEX.wav`. Its official test split is the recordings 0 to 4 of each digit and speaker;
    the next three are the validation split here.

    Raises:
        BadInput: a file cannot be used; a split has none.
    """
    recordings = list(_fsdd_files(path))
    if not recordings:
        return None
    parts: dict[str, list[Recording]] = {"train": [], "val": [], "test": []}
    for digit, speaker, index, file, name in sorted(recordings, key=lambda each: each[:3]):
        split = "test" if index < 5 else "val" if index < 8 else "train"
        parts[split].append(Recording(read_audio(file, sample_rate, name), digit, speaker, name))
    if missing := [split for split, each in parts.items() if not each]:
        raise BadInput(
            f"{path} has no {missing[0]} recordings: test is index 0 to 4, val 5 to 7, train the rest"
        )
    return parts


def _fsdd_files(path: Path) -> Iterator[tuple[str, str, int, Any, str]]:
    """Digit, speaker, index, file and name of each recording; nothing if there are other sound files."""
    if path.is_dir():
        if (packed := path / "recordings.zip").is_file():
            path = packed
        else:
            folder = path / "recordings"
            files = find_audio_files(folder if folder.is_dir() else path)
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
    except DAMAGED_ZIP as error:
        raise BadInput(f"{path} is not a complete zip file ({error}): copy it again") from None


def read_captcha(sample_rate: int) -> list[Recording]:
    """One recording each of 0 to 9 and A to Z by one speaker, from the captcha 0.7.1 archive (8 kHz,
    BSD-3-Clause)."""
    recordings = []
    with download.fetch_archive(*CAPTCHA) as archive:
        for character in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            name = f"captcha/data/{character}/default.wav"
            wave = read_audio(io.BytesIO(archive.read(name)), sample_rate, name)
            recordings.append(Recording(wave, character, "captcha", name))
    return recordings
