"""Music as piano rolls of 88 keys: Bach's chorales, and folders of MIDI files."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from torchstone.data.bad_files import read_good, split_skip
from torchstone.data.identity import identified
from torchstone.data.music import chorales, midi
from torchstone.data.music.midi import EXTENSIONS, KEYS, LOWEST_KEY, Frames
from torchstone.data.splits import SPLIT_SEED, find_split_folders, find_splits
from torchstone.data.text_files import read_utf8
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import parse_json

BUNDLED = ("chorales",)
PUBLISHED_FRAMES = {
    "quarter": 1.0,
    "8th": 0.5,
    "16th": 0.25,
}  # quarter notes per frame, by the names of the published files
FRAME_BEATS = 0.25  # quarter notes per frame of other music
SPLIT_SHARES = (0.15, 0.1)  # of test and val, where no split is published


@dataclass(frozen=True, eq=False)
class MusicDataset:
    """Pieces in three splits; `frame_beats` is the number of quarter notes per frame."""

    name: str
    frame_beats: float
    train: list[Frames]
    val: list[Frames]
    test: list[Frames]
    description: str


@identified(unit="pieces")
def load_music(spec: str | Path, frame_beats: float | None = None) -> MusicDataset:
    """Load a data set of music by name or path.

    - `chorales`: Bach's, from music21's archive, in eighth notes; without duplicates
    - jsb-chorales-quarter.json (or -8th, -16th) of the JSB chorales, or the folder it is in: the
      split of Boulanger-Lewandowski et al. 2012 (arXiv:1206.6392), section 6
    - a folder of MIDI files, with or without folders in it; in sixteenth notes. Folders named train, val
      and test are the splits

    Without a published split the pieces are split 75 : 10 : 15, always in the same way; settings of one
    melody may fall into different splits.

    Args:
        frame_beats: quarter notes per frame, by default the data set's own; not for the published files,
            which hold frames, not notes.

    Raises:
        BadInput: nothing there, or too few pieces; a file that is damaged or has no notes.
    """
    if frame_beats is not None and not 1 / 64 <= frame_beats <= 16:
        raise BadInput(f"frame_beats must be 1/64 to 16 quarter notes, not {frame_beats:g}")
    spec, skip = split_skip(str(spec))
    path = Path(spec).expanduser()
    if str(spec) in BUNDLED:
        frame_beats = frame_beats or 0.5
        scores = chorales.read().items()
        pieces = {name: midi.notes_to_frames(notes, frame_beats, is_score=True)[0] for name, notes in scores}
        # one piece of each set of duplicates, transposed ones among them
        first = {_transposed_to_lowest(piece): name for name, piece in reversed(pieces.items())}
        unique = [piece for name, piece in pieces.items() if name in first.values()]
        source = "Bach's four-part chorales, from music21's archive"
        source += f", {len(pieces) - len(unique)} duplicates left out"
        return _split(str(spec), unique, frame_beats, source)
    if path.is_dir() and any(path.glob("jsb-chorales-*.json")):
        names = {length: f"jsb-chorales-{name}.json" for name, length in PUBLISHED_FRAMES.items()}
        path = path / names.get(frame_beats or 1.0, names[1.0])
    if path.suffix == ".json" and path.is_file():
        return _published(path, frame_beats)
    if path.is_dir():
        if splits := find_split_folders(path, _midi_files):
            return _published_folders(path, splits, frame_beats or FRAME_BEATS, skip)
        files = _midi_files(path)
        read = partial(read_piece, frame_beats=frame_beats or FRAME_BEATS)
        pieces, _, left_out = read_good(read, files, skip=skip)
        dropped = sum(count for _, count in pieces)
        source = f"{len(files)} MIDI files{left_out}"
        source += f", {dropped} notes beyond a piano's keys left out" * (dropped > 0)
        return _split(path.name, [piece for piece, _ in pieces], frame_beats or FRAME_BEATS, source)
    if path.name != str(spec) or path.suffix:
        raise BadInput(f"{spec} does not exist: give a folder of MIDI files")
    raise BadInput(f"no music or folder {spec!r}: {did_you_mean(str(spec), BUNDLED)}")


def _midi_files(folder: Path) -> list[Path]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file())
    return [file for file in files if not file.name.startswith(".")]


def _published_folders(path: Path, splits: dict[str, str], frame_beats: float, skip: bool) -> MusicDataset:
    """Folders named `train`, `val` and `test`; a missing one is split off the training pieces."""
    listed = [(split, file) for split, name in splits.items() for file in _midi_files(path / name)]
    read, good, left_out = read_good(lambda each: read_piece(each[1], frame_beats), listed, skip=skip)
    dropped = sum(count for _, count in read)
    parts: dict[str, list[Frames]] = {split: [] for split in splits}
    for (piece, _), i in zip(read, good, strict=True):
        parts[listed[i][0]].append(piece)
    for split in [split for split in ("test", "val") if split not in parts]:
        order = np.random.RandomState(SPLIT_SEED).permutation(len(parts["train"]))
        count = max(1, round(SPLIT_SHARES[split == "val"] * len(order)))
        train, chosen = parts["train"], sorted(order[:count].tolist())
        parts[split] = [train[i] for i in chosen]
        parts["train"] = [piece for i, piece in enumerate(train) if i not in chosen]
    if empty := [split for split, pieces in parts.items() if not pieces]:
        raise BadInput(f"the {empty[0]} split of {path} has no piece{left_out}")
    sizes = " / ".join(f"{len(parts[split])} {split}" for split in ("train", "val", "test"))
    notes = left_out + f", {dropped} notes beyond a piano's keys left out" * (dropped > 0)
    published = " and ".join(split for split in splits if split != "train")
    description = (
        f"{path.name}: {len(listed)} MIDI files{notes}; {sizes} pieces ({published} as published), frames of "
        f"{frame_beats:g} quarter notes"
    )
    return MusicDataset(path.name, frame_beats, parts["train"], parts["val"], parts["test"], description)


def read_piece(file: Path, frame_beats: float) -> tuple[Frames, int]:
    """The frames of a MIDI file, and the number of its notes beyond a piano's keys.

    Raises:
        BadInput: no such file, no MIDI, or no notes in it.
    """
    if not file.is_file():
        raise BadInput(f"{file} does not exist: give a MIDI file")
    piece, dropped = midi.notes_to_frames(midi.read(file), frame_beats)
    if not len(piece):
        raise BadInput(f"{file} has no notes on a piano's keys: leave it out")
    return piece, dropped


def _published(path: Path, frame_beats: float | None) -> MusicDataset:
    """Published splits: JSON of pieces, which are lists of frames of MIDI note numbers."""
    own = next((q for name, q in PUBLISHED_FRAMES.items() if path.stem.endswith(f"-{name}")), None)
    if frame_beats not in (None, own):
        raise BadInput(f"{path} has other frames than {frame_beats:g} quarter notes: leave out frame_beats")
    try:
        content = parse_json(read_utf8(path))
        names = find_splits(content, path)
        parts = {split: [_keys(piece) for piece in content[name]] for split, name in names.items()}
        if sorted(parts) != ["test", "train", "val"] or not all(parts.values()):
            raise KeyError("train, valid and test")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadInput(
            f"{path} does not hold pieces of frames of MIDI keys by train, valid and test ({error!r})"
        ) from None
    sizes = " / ".join(f"{len(parts[p])} {p}" for p in ("train", "val", "test"))
    description = f"{path.stem}: {sizes} pieces, as published"
    return MusicDataset(path.stem, own or 1.0, **parts, description=description)


def _keys(piece: list[list[int]]) -> Frames:
    sounds = torch.zeros(len(piece), KEYS, dtype=torch.bool)
    for index, keys in enumerate(piece):
        if any(not LOWEST_KEY <= key < LOWEST_KEY + KEYS for key in keys if key >= 0):
            raise ValueError(f"a key of {keys} is not on a piano")
        sounds[index, [key - LOWEST_KEY for key in keys if key >= 0]] = True
    if not len(piece):
        raise ValueError("a piece without frames")
    return sounds


def _transposed_to_lowest(piece: Frames) -> bytes:
    lowest = int(piece.any(0).nonzero()[0])
    return piece.roll(-lowest, 1).numpy().tobytes()


def _split(name: str, pieces: list[Frames], frame_beats: float, source: str) -> MusicDataset:
    test, val = (max(1, round(share * len(pieces))) for share in SPLIT_SHARES)
    if len(pieces) < 3:
        count = f"{len(pieces)} piece{'s' * (len(pieces) != 1)}"
        raise BadInput(f"{name} holds {count}: give at least 3, better hundreds")
    # the numbers of numpy's legacy generator will never change
    order = np.random.RandomState(SPLIT_SEED).permutation(len(pieces))
    cuts = np.split(order, [test, test + val])
    parts = [[pieces[i] for i in sorted(part)] for part in cuts]
    sizes = " / ".join(f"{len(parts[i])} {part}" for i, part in ((2, "train"), (1, "val"), (0, "test")))
    description = f"{name}: {source}; {sizes} pieces, frames of {frame_beats:g} quarter notes"
    return MusicDataset(name, frame_beats, parts[2], parts[1], parts[0], description)
