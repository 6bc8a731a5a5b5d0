"""Speech data sets: isolated recordings to compose utterances from, or a folder with transcripts."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchstone.data.audio.files import Recording, find_audio_files, read_audio, read_captcha, read_fsdd
from torchstone.data.bad_files import read_good, split_skip
from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import MAX_VALIDATION, SPLIT_SEED, split_of
from torchstone.data.text_files import MISSING_TEXTS, find_delimiter, read_rows, read_utf8
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("captcha",)
TABLE_EXTENSIONS = (".tsv", ".csv")
FILE_COLUMNS = ("file", "filename", "path", "wav", "audio", "file_name")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
SPLIT_COLUMN = "split"


@dataclass(frozen=True)
class SpeechDataset:
    """Three splits of recordings. `is_isolated`: each holds one character, and utterances are composed of
    several by one speaker. `alphabet` has every character of every text."""

    name: str
    alphabet: str
    train: list[Recording]
    val: list[Recording]
    test: list[Recording]
    is_isolated: bool
    description: str


@identified(
    lambda data: {split: [(r.wave, r.text, r.speaker) for r in getattr(data, split)] for split in SPLITS},
    unit="recordings",
)
def read_speech(spec: str, sample_rate: int) -> SpeechDataset:
    """Read a data set by name or path, resampled to `sample_rate`.

    - `captcha`: one recording each of 0 to 9 and A to Z (the same in each split: the utterances
      composed of them differ), or `captcha/0123` of some of them
    - the Free Spoken Digit Dataset: its zip file or folder, with its official test indices
    - a folder of sound files with one table, .tsv or .csv, with columns `file` and `text` (and optionally
      `split`: train, val or test); without a header the first two columns

    Splits that a table does not name are split off with a constant seed: a tenth for the test, a ninth
    of the rest for validation.

    Raises:
        BadInput: no such data set, a table or sound that cannot be read, a text without sound or the
            other way round.
    """
    name, _, selected = spec.partition("/")
    if name == "captcha":
        recordings = [r for r in read_captcha(sample_rate) if not selected or r.text in selected]
        if unknown := [c for c in selected if c not in {r.text for r in recordings}]:
            raise BadInput(f"captcha has recordings of 0 to 9 and A to Z, none of {unknown[0]!r}")
        description = (
            f"captcha: utterances composed of {len(recordings)} recorded characters of one speaker from the "
            "captcha 0.7.1 archive; the same recordings in training and test, in other orders, speeds "
            "and noise"
        )
        alphabet = "".join(r.text for r in recordings)
        splits = (recordings, recordings, recordings)
        return SpeechDataset(spec, alphabet, *splits, is_isolated=True, description=description)
    spec, skip = split_skip(spec)
    path = Path(spec).expanduser()
    if not path.exists():
        hint = f"({did_you_mean(spec, BUNDLED)}); give a folder of sounds with a transcript file, or FSDD"
        raise BadInput(f"no speech at {spec!r} {hint}")
    if parts := read_fsdd(path, sample_rate):
        sizes = " / ".join(f"{len(parts[split])} {split}" for split in ("train", "val", "test"))
        speakers = len({r.speaker for r in parts["train"]})
        description = (
            f"{spec}: spoken digits of {speakers} speakers; {sizes} recordings (test: indices 0 to 4, "
            "as published; val: 5 to 7), utterances composed of several by one speaker"
        )
        alphabet = "".join(sorted({r.text for part in parts.values() for r in part}))
        return SpeechDataset(spec, alphabet, **parts, is_isolated=True, description=description)
    if not path.is_dir():
        raise BadInput(f"{spec} is no data set of speech: give a folder, or FSDD's recordings.zip")
    return _read_folder(path, sample_rate, skip)


def _read_folder(path: Path, sample_rate: int, skip: bool) -> SpeechDataset:
    tables = sorted(f for f in path.iterdir() if f.suffix.lower() in TABLE_EXTENSIONS)
    if len(tables) != 1:
        names = ", ".join(f.name for f in tables) or "none"
        raise BadInput(
            f"{path} needs one transcript file, .tsv or .csv with columns file and text; found: {names}"
        )
    (table,) = tables
    rows = _read_table(table)
    listed = [os.path.normpath(name) for name, _, _ in rows]
    if repeated := [name for name, count in Counter(listed).items() if count > 1]:
        raise BadInput(f"{table} lists {repeated[0]} twice")
    parts: dict[str, list[Recording]] = {"train": [], "val": [], "test": []}
    unassigned = []

    def read(number: int) -> Recording:
        name, text, _ = rows[number - 1]
        file = path / name
        if not file.is_file():
            raise BadInput(f"{table}, data row {number}: there is no file {file}")
        return Recording(read_audio(file, sample_rate), text, "", str(file))

    recordings, good, left_out = read_good(read, range(1, len(rows) + 1), skip=skip)
    rows = [rows[i] for i in good]
    for number, recording, (_, _, split) in zip(good, recordings, rows, strict=True):
        number += 1
        if not split:
            unassigned.append(recording)
        elif name := split_of(split):
            parts[name].append(recording)
        else:
            raise BadInput(f"{table}, data row {number}: split is train, val or test, not {split!r}")
    without = len({f.resolve() for f in find_audio_files(path)} - {(path / n).resolve() for n in listed})
    unused = f", {without} sound files without a transcript not used" if without else ""
    if len(unassigned) not in (0, len(rows)):
        named = len(rows) - len(unassigned)
        raise BadInput(f"{table} names a split in {named} of {len(rows)} rows: name it in all or none")
    splitting = "random split" if unassigned else "split as in the table"
    if unassigned:
        parts["train"] = unassigned
    for salt, (split, share) in enumerate({"test": 0.1, "val": 1 / 9}.items()):
        if not parts[split] and parts["train"]:
            parts["train"], parts[split] = _split_off(parts["train"], share, salt, str(path))
    if not parts["train"]:
        raise BadInput(f"{table} has no rows to train on")
    alphabet = "".join(sorted({c for part in parts.values() for r in part for c in r.text}))
    sizes = " / ".join(f"{len(parts[split])} {split}" for split in ("train", "val", "test"))
    description = f"{path}; {sizes} utterances ({splitting}), {len(alphabet)} characters{unused}{left_out}"
    return SpeechDataset(str(path), alphabet, **parts, is_isolated=False, description=description)


def _is_header(cells: list[str]) -> bool:
    names = [cell.strip().lower() for cell in cells]
    return any(name in FILE_COLUMNS for name in names) and any(name in TEXT_COLUMNS for name in names)


def _read_table(table: Path) -> list[tuple[str, str, str]]:
    """File, text and split ('' if there is none) of each row."""
    text, tabs = read_utf8(table), table.suffix.lower() == ".tsv"
    delimiter = "\t" if tabs else find_delimiter(text, str(table), _is_header)
    lines = read_rows(text, str(table), delimiter, quoted=not tabs)
    rows = [[cell.strip() for cell in row] for row in lines if any(map(str.strip, row))]
    names = [cell.lower() for cell in rows[0]] if rows else []
    file, transcript = (
        next((names.index(n) for n in known if n in names), None) for known in (FILE_COLUMNS, TEXT_COLUMNS)
    )
    has_header = file is not None and transcript is not None
    used = [names[column] for column in (file, transcript) if column is not None]
    if twice := next((name for name in used if names.count(name) > 1), None):
        raise BadInput(f"{table} has two columns named {twice}: rename one of them")
    if not has_header and (file is not None or transcript is not None):
        missing = "text" if transcript is None else "file"
        raise BadInput(f"{table} has no column named {missing}, only {', '.join(rows[0])}")
    split = names.index(SPLIT_COLUMN) if has_header and SPLIT_COLUMN in names else None
    file, transcript = (file, transcript) if has_header else (0, 1)
    entries = []
    for number, row in enumerate(rows[has_header:], 1):
        width = len(rows[0]) if has_header else 2
        if len(row) != width:
            raise BadInput(f"{table}, data row {number}: {len(row)} cells, not {width}")
        if not row[file] or not row[transcript]:
            empty = "text" if row[file] else "file"
            raise BadInput(f"{table}, data row {number}: the {empty} is empty")
        if row[transcript].lower() in MISSING_TEXTS:
            missing = row[transcript]
            raise BadInput(f"{table}, data row {number}: the text is {missing!r}, which stands for none")
        text = " ".join(row[transcript].split())
        entries.append((row[file], text, "" if split is None else row[split]))
    if not entries:
        raise BadInput(f"{table} is empty: give a file and its text on each line")
    return entries


def _split_off(
    recordings: list[Recording], share: float, salt: int, name: str
) -> tuple[list[Recording], list[Recording]]:
    """(rest, a random share of the recordings, always the same)."""
    if len(recordings) < 2:
        raise BadInput(f"{name} has {len(recordings)} utterances to train on, too few to split")
    count = min(MAX_VALIDATION, max(1, round(share * len(recordings))))
    order = np.random.RandomState(SPLIT_SEED + salt).permutation(len(recordings))
    split_off = set(order[:count].tolist())
    return (
        [r for i, r in enumerate(recordings) if i not in split_off],
        [r for i, r in enumerate(recordings) if i in split_off],
    )
