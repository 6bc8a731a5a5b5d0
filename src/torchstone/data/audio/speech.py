"""Sounds with what is said in them: recordings to be composed, or a folder with its transcripts."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchstone.data.audio.files import Recording, read_captcha, read_fsdd, read_audio, find_audio_files
from torchstone.data.splits import MOST_VALIDATION, SPLIT_SEED, SPLITS
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("captcha",)
TABLE_EXTENSIONS = (".tsv", ".csv")
FILE_COLUMNS = ("file", "filename", "path", "wav", "audio", "file_name")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
SPLIT_COLUMN = "split"


@dataclass(frozen=True)
class SpeechDataset:
    """Three splits of recordings. `composed`: each holds one character, and utterances are to be put
    together of several of one speaker. `alphabet` has every character of every text."""

    name: str
    alphabet: str
    train: list[Recording]
    val: list[Recording]
    test: list[Recording]
    composed: bool
    note: str


def read_speech(spec: str, rate: int) -> SpeechDataset:
    """Read what a person named, at `rate` samples a second.

    - `captcha`: one recording each of 0 to 9 and A to Z (the same in each split: what differs is how
      they are put together), or `captcha/0123` of some of them
    - the Free Spoken Digit Dataset: its zip file or a folder of it, by its official test indices
    - a folder of sound files with one table, .tsv or .csv, of `file` and `text` (and perhaps `split`:
      train, val or test); without names the first two columns

    Splits that a table does not name are cut with a constant seed: a tenth for the test, a ninth of
    the rest for validation.

    Raises:
        BadInput: nothing there, a table or sound that cannot be read, a sound without text or the
            other way round.
    """
    name, _, chosen = spec.partition("/")
    if name == "captcha":
        each = [r for r in read_captcha(rate) if not chosen or r.text in chosen]
        if unknown := [c for c in chosen if c not in {r.text for r in each}]:
            raise BadInput(f"captcha has recordings of 0 to 9 and A to Z, none of {unknown[0]!r}")
        note = (
            f"captcha: utterances composed of {len(each)} recorded characters of one voice from the "
            "captcha 0.7.1 archive; the same recordings in training and test, in other orders, speeds "
            "and noise"
        )
        return SpeechDataset(spec, "".join(r.text for r in each), each, each, each, True, note)
    path = Path(spec).expanduser()
    if not path.exists():
        said = f"({did_you_mean(spec, BUNDLED)}); give a folder of sounds with a transcript file, or FSDD"
        raise BadInput(f"no speech at {spec!r} {said}")
    if parts := read_fsdd(path, rate):
        sizes = " / ".join(f"{len(parts[split])} {split}" for split in ("train", "val", "test"))
        speakers = len({r.speaker for r in parts["train"]})
        note = (
            f"{spec}: spoken digits of {speakers} speakers; {sizes} recordings (test: indices 0 to 4, "
            "as published; val: 5 to 7), utterances composed of several by one speaker"
        )
        alphabet = "".join(sorted({r.text for part in parts.values() for r in part}))
        return SpeechDataset(spec, alphabet, parts["train"], parts["val"], parts["test"], True, note)
    if not path.is_dir():
        raise BadInput(f"{spec} is no data set of speech: give a folder, or FSDD's recordings.zip")
    return _folder(path, rate)


def _folder(path: Path, rate: int) -> SpeechDataset:
    tables = sorted(f for f in path.iterdir() if f.suffix.lower() in TABLE_EXTENSIONS)
    if len(tables) != 1:
        found = ", ".join(f.name for f in tables) or "none"
        raise BadInput(
            f"{path} needs one transcript file, .tsv or .csv with columns file and text; found: {found}"
        )
    (table,) = tables
    rows = _rows(table)
    listed = [name for name, _, _ in rows]
    if len(set(listed)) < len(listed):
        twice = next(name for i, name in enumerate(listed) if name in listed[:i])
        raise BadInput(f"{table} lists {twice} twice")
    parts: dict[str, list[Recording]] = {"train": [], "val": [], "test": []}
    free = []
    for number, (name, text, split) in enumerate(rows, 1):
        file = path / name
        if not file.is_file():
            raise BadInput(f"{table}, data row {number}: there is no file {file}")
        recording = Recording(read_audio(file, rate), text, "", str(file))
        if not split:
            free.append(recording)
        elif split.lower() in SPLITS:
            parts[SPLITS[split.lower()]].append(recording)
        else:
            raise BadInput(f"{table}, data row {number}: split is train, val or test, not {split!r}")
    without = len({f.resolve() for f in find_audio_files(path)} - {(path / n).resolve() for n in listed})
    said = f", {without} sound files without a transcript not used" if without else ""
    if len(free) not in (0, len(rows)):
        raise BadInput(f"{table} names a split in {len(rows) - len(free)} of {len(rows)} rows: in all")
    kept = "as the table names them" if not free else "cut at random"
    if free:
        parts["train"] = free
    for salt, (split, share) in enumerate({"test": 0.1, "val": 1 / 9}.items()):
        if not parts[split] and parts["train"]:
            parts["train"], parts[split] = _cut(parts["train"], share, salt, str(path))
    if not parts["train"]:
        raise BadInput(f"{table} has no rows to train on")
    alphabet = "".join(sorted({c for part in parts.values() for r in part for c in r.text}))
    sizes = " / ".join(f"{len(parts[split])} {split}" for split in ("train", "val", "test"))
    note = f"{path}; {sizes} utterances ({kept}), {len(alphabet)} characters{said}"
    return SpeechDataset(str(path), alphabet, *parts.values(), composed=False, note=note)


def _rows(table: Path) -> list[tuple[str, str, str]]:
    """File, text and split ('' if there is none) of each row."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{table} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    tabs = table.suffix.lower() == ".tsv"
    quotes = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", quoting=quotes)
    try:
        rows = [[cell.strip() for cell in row] for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise BadInput(f"{table} is not a table of text: {error}") from None
    names = [cell.lower() for cell in rows[0]] if rows else []
    file, said = (next((names.index(n) for n in known if n in names), None) for known in (FILE_COLUMNS, TEXT_COLUMNS))
    named = file is not None and said is not None
    if not named and (file is not None or said is not None):
        what = "text" if said is None else "file"
        raise BadInput(f"{table} has no column named {what}, only {', '.join(rows[0])}")
    split = names.index(SPLIT_COLUMN) if named and SPLIT_COLUMN in names else None
    file, said = (file, said) if named else (0, 1)
    found = []
    for number, row in enumerate(rows[named:], 1):
        width = len(rows[0]) if named else 2
        if len(row) != width:
            raise BadInput(f"{table}, data row {number}: {len(row)} cells, not {width}")
        if not row[file] or not row[said]:
            what = "text" if row[file] else "file"
            raise BadInput(f"{table}, data row {number}: the {what} is empty")
        spoken = " ".join(row[said].split())
        found.append((row[file], spoken, "" if split is None else row[split]))
    if not found:
        raise BadInput(f"{table} is empty: give a file and its text a line")
    return found


def _cut(
    recordings: list[Recording], share: float, salt: int, name: str
) -> tuple[list[Recording], list[Recording]]:
    """(rest, so many taken out at random, the same ones always)."""
    if len(recordings) < 2:
        raise BadInput(f"{name} has {len(recordings)} utterances to train on, too few to split")
    count = min(MOST_VALIDATION, max(1, round(share * len(recordings))))
    order = np.random.RandomState(SPLIT_SEED + salt).permutation(len(recordings))
    taken = set(order[:count].tolist())
    return (
        [r for i, r in enumerate(recordings) if i not in taken],
        [r for i, r in enumerate(recordings) if i in taken],
    )
