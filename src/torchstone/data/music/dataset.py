"""Music as frames of 88 keys: Bach's chorales, and folders of MIDI files."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from torchstone.data.music import chorales, midi
from torchstone.data.music.midi import EXTENSIONS, KEYS, LOWEST_KEY, Frames
from torchstone.data.splits import SPLIT_SEED, SPLITS
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("chorales",)
PUBLISHED_FRAMES = {"quarter": 1.0, "8th": 0.5, "16th": 0.25}  # a frame, as the published files are named
FRAME_BEATS = 0.25  # quarter notes a frame of other music lasts
SPLIT_SHARES = (0.15, 0.1)  # of the pieces, for test and val, where no split is published


@dataclass(frozen=True, eq=False)
class MusicDataset:
    """Pieces in three parts; `frame` is how many quarter notes a frame lasts."""

    name: str
    frame: float
    train: list[Frames]
    val: list[Frames]
    test: list[Frames]
    note: str


def load_music(spec: str | Path, frame: float | None = None) -> MusicDataset:
    """The music that a person named.

    - `chorales`: Bach's, from music21's archive, in eighths; without those that stand there twice
    - jsb-chorales-quarter.json (or -8th, -16th) of the JSB chorales, or the folder it is in: the
      split of Boulanger-Lewandowski et al. 2012 (arXiv:1206.6392), section 6
    - a folder of MIDI files, with or without folders in it; in sixteenths

    What has no published split is cut by piece, 75 : 10 : 15, always alike; settings of one melody
    may come into two parts.

    Args:
        frame: quarter notes that one lasts, where the notes themselves are known.

    Raises:
        BadInput: nothing there, or too few pieces; a file that is damaged or has no notes.
    """
    if frame is not None and not 1 / 64 <= frame <= 16:
        raise BadInput(f"a frame is 1/64 to 16 quarter notes long, not {frame:g}")
    path = Path(spec).expanduser()
    if str(spec) in BUNDLED:
        frame = frame or 0.5
        scores = chorales.read().items()
        pieces = {name: midi.notes_to_frames(notes, frame, score=True)[0] for name, notes in scores}
        alike = {_untransposed(piece): name for name, piece in reversed(pieces.items())}
        kept = [piece for name, piece in pieces.items() if name in alike.values()]
        said = "Bach's four-part chorales, from music21's archive"
        said += f", {len(pieces) - len(kept)} that stand there twice left out"
        return _split(str(spec), kept, frame, said)
    if path.is_dir() and any(path.glob("jsb-chorales-*.json")):
        names = {length: f"jsb-chorales-{name}.json" for name, length in PUBLISHED_FRAMES.items()}
        path = path / names.get(frame or 1.0, names[1.0])
    if path.suffix == ".json" and path.is_file():
        return _published(path, frame)
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in EXTENSIONS)
        read = [read_piece(file, frame or FRAME_BEATS) for file in files]
        lost = sum(count for _, count in read)
        said = f"{len(files)} MIDI files" + f", {lost} notes beyond a piano's keys left out" * (lost > 0)
        return _split(path.name, [piece for piece, _ in read], frame or FRAME_BEATS, said)
    if path.name != str(spec) or path.suffix:
        raise BadInput(f"{spec} does not exist: give a folder of MIDI files")
    raise BadInput(f"no music or folder {spec!r}: {did_you_mean(str(spec), BUNDLED)}")


def read_piece(file: Path, frame: float) -> tuple[Frames, int]:
    """The frames of a MIDI file, and how many of its notes lie beyond a piano's keys.

    Raises:
        BadInput: no such file, no MIDI, or no notes in it.
    """
    if not file.is_file():
        raise BadInput(f"{file} does not exist: give a MIDI file")
    piece, lost = midi.notes_to_frames(midi.read(file), frame)
    if not len(piece):
        raise BadInput(f"{file} has no notes on a piano's keys: leave it out")
    return piece, lost


def _published(path: Path, frame: float | None) -> MusicDataset:
    """Splits of pieces of frames of MIDI keys, as JSON."""
    own = next((q for name, q in PUBLISHED_FRAMES.items() if path.stem.endswith(f"-{name}")), None)
    if frame not in (None, own):
        raise BadInput(f"{path} is in frames of another length than {frame:g}: leave frame out")
    try:
        content = json.loads(path.read_text())
        parts = {SPLITS[name]: [_keys(p) for p in pieces] for name, pieces in content.items()}
        if sorted(parts) != ["test", "train", "val"] or not all(parts.values()):
            raise KeyError("train, valid and test")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadInput(
            f"{path} does not hold pieces of frames of MIDI keys by train, valid and test ({error!r})"
        ) from None
    sizes = " / ".join(f"{len(parts[p])} {p}" for p in ("train", "val", "test"))
    said = f"{path.stem}: {sizes} pieces, as published"
    return MusicDataset(path.stem, own or 1.0, **parts, note=said)


def _keys(piece: list[list[int]]) -> Frames:
    sounds = torch.zeros(len(piece), KEYS, dtype=torch.bool)
    for place, keys in enumerate(piece):
        if any(not LOWEST_KEY <= key < LOWEST_KEY + KEYS for key in keys if key >= 0):
            raise ValueError(f"a key of {keys} is not on a piano")
        sounds[place, [key - LOWEST_KEY for key in keys if key >= 0]] = True
    if not len(piece):
        raise ValueError("a piece without frames")
    return sounds


def _untransposed(piece: Frames) -> bytes:
    lowest = int(piece.any(0).nonzero()[0])
    return piece.roll(-lowest, 1).numpy().tobytes()


def _split(name: str, pieces: list[Frames], frame: float, said: str) -> MusicDataset:
    test, val = (max(1, round(share * len(pieces))) for share in SPLIT_SHARES)
    if len(pieces) < 3:
        count = f"{len(pieces)} piece{'s' * (len(pieces) != 1)}"
        raise BadInput(f"{name} holds {count}: give at least 3, better hundreds")
    # the legacy generator's numbers are frozen for ever
    order = np.random.RandomState(SPLIT_SEED).permutation(len(pieces))
    cuts = np.split(order, [test, test + val])
    parts = [[pieces[i] for i in sorted(part)] for part in cuts]
    sizes = " / ".join(f"{len(parts[i])} {part}" for i, part in ((2, "train"), (1, "val"), (0, "test")))
    note = f"{name}: {said}; {sizes} pieces, frames of {frame:g} quarter notes"
    return MusicDataset(name, frame, parts[2], parts[1], parts[0], note)
