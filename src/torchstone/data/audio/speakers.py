"""Data sets for speaker identification: sequences of vectors, or sounds, with one label each."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchstone.data import download
from torchstone.data.audio.files import find_audio_files, read_audio, read_fsdd
from torchstone.data.bad_files import read_good, split_skip
from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import find_split_folders, full_subset, stratified_split
from torchstone.data.text_files import read_utf8
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("japanese_vowels",)
AEON = ("aeon==1.6.0", "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409", 6.4)
VOWELS = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"


@dataclass(frozen=True)
class SpeakerSplit:
    """One split: waveforms (samples,) or vectors (frames, width), and class indices."""

    items: Sequence[Tensor]
    labels: Sequence[int]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Tensor:
        return self.items[i]

    def describe(self, i: int) -> str:
        """The name of an item in error messages."""
        return self.names[i]

    def contents(self) -> Iterable[tuple[Tensor, int]]:
        """Each item with its label: see `data.identity`."""
        return zip(self.items, self.labels, strict=True)

    def subset(self, index: Sequence[int]) -> "SpeakerSplit":
        """The items with these indices."""
        return SpeakerSplit(
            [self.items[i] for i in index], [self.labels[i] for i in index], [self.names[i] for i in index]
        )


def concat_splits(*parts: SpeakerSplit) -> SpeakerSplit:
    """Several splits as one."""
    fields = ("items", "labels", "names")
    return SpeakerSplit(*([each for part in parts for each in getattr(part, field)] for field in fields))


@dataclass(frozen=True)
class SpeakerDataset:
    """A data set in three splits; `is_sound` if the items are waveforms, not vectors."""

    name: str
    classes: tuple[str, ...]
    train: SpeakerSplit
    val: SpeakerSplit
    test: SpeakerSplit
    is_sound: bool
    description: str


@identified(lambda data: {split: getattr(data, split).contents() for split in SPLITS}, unit="recordings")
def read_speakers(spec: str, sample_rate: int) -> SpeakerDataset:
    """Read a data set by name or path; sounds are resampled to `sample_rate`.

    - `japanese_vowels`: two vowels by nine men, 12 cepstral coefficients per frame (Kudo, Toyama and
      Shimbo 1999), with its published split: 270 for training, 370 for the test
    - `NAME_TRAIN.ts`, with `NAME_TEST.ts` in the same folder: any set in that format, evenly sampled
    - the Free Spoken Digit Dataset, zip file or folder: its speakers, its official test indices
    - a folder with a sub-folder of sound files for each speaker, or with `train` and `test` of such

    Without a published test split a tenth is split off by class for it, and then a tenth of the data for
    validation, always the same.

    Raises:
        BadInput: no such data set, an item that cannot be used, a speaker with too few items.
    """
    if spec == "japanese_vowels":
        with download.fetch_archive(*AEON) as archive:
            texts = [archive.read(VOWELS.format(split)).decode() for split in ("TRAIN", "TEST")]
        train, test = (_read_ts(text, spec) for text in texts)
        source = "two vowels spoken by nine men, 12 cepstra per frame, from the aeon 1.6.0 archive"
        return _make_dataset(spec, {"train": train, "test": test}, False, f"{spec}: {source}")
    spec, skip = split_skip(spec)
    path = Path(spec).expanduser()
    if spec.endswith("_TRAIN.ts"):
        parts = {}
        for split in ("train", "test"):
            file = path.with_name(path.name.replace("_TRAIN.ts", f"_{split.upper()}.ts"))
            if not file.is_file():
                raise BadInput(f"there is no {file}: NAME_TRAIN.ts and NAME_TEST.ts belong together")
            parts[split] = _read_ts(read_utf8(file), str(file))
        return _make_dataset(path.name, parts, False, spec)
    if not path.exists():
        hint = f"({did_you_mean(spec, BUNDLED)}); give a folder with a sub-folder of sounds per speaker"
        raise BadInput(f"no speakers at {spec!r} {hint}")
    if digits := read_fsdd(path, sample_rate):
        parts = {s: [(r.wave, r.speaker, r.name) for r in each] for s, each in digits.items()}
        splitting = "test: indices 0 to 4, as published; val: 5 to 7"
        return _make_dataset(path.name, parts, True, f"{spec}: spoken digits", splitting)
    roots = {split: path / name for split, name in find_split_folders(path, find_audio_files).items()} or {
        "train": path
    }
    listed = [(file, name, split) for split, root in roots.items() for file, name in _list_sounds(root)]
    if not listed:
        raise BadInput(f"{spec} is no set of speakers: give a folder with a sub-folder per speaker")
    audio, good, left_out = read_good(lambda row: read_audio(row[0], sample_rate), listed, skip=skip)
    rows: dict[str, Rows] = {split: [] for split in roots}
    for wave, i in zip(audio, good, strict=True):
        file, speaker, split = listed[i]
        rows[split].append((wave, speaker, str(file)))
    if empty := [split for split, each in rows.items() if not each]:
        raise BadInput(f"the {empty[0]} split of {spec} has no recording{left_out}")
    others = sum(f.is_file() and not f.name.startswith(".") for f in path.rglob("*")) - len(listed)
    skipped = f", {others} other file{'s' * (others > 1)} skipped" if others else ""
    return _make_dataset(path.name, rows, True, spec + skipped + left_out)


def _list_sounds(root: Path) -> Iterator[tuple[Path, str]]:
    """The sound files in the sub-folders, with the names of these."""
    folders = root.iterdir() if root.is_dir() else []
    for folder in sorted(f for f in folders if f.is_dir() and not f.name.startswith(".")):
        for file in find_audio_files(folder):
            yield file, folder.name


Rows = list[tuple[Tensor, str, str]]  # item, class, name


def _read_ts(text: str, name: str) -> Rows:
    """The cases of a .ts file: dimensions separated by `:`, values by `,`, the class last."""
    head, _, data = text.partition("@data")
    if not data.strip() or "@timestamps true" in head.lower():
        raise BadInput(f"{name} is no .ts file of series without time stamps and with one class each")
    rows, width = [], 0
    for number, line in enumerate(data.strip().splitlines(), 1):
        *dimensions, label = line.strip().split(":")
        try:
            columns = [[float(value) for value in each.split(",")] for each in dimensions]
            if not all(math.isfinite(value) for column in columns for value in column):
                raise ValueError
        except ValueError:
            raise BadInput(f"{name}, case {number}: a value is missing or no number") from None
        width = width or len(columns)
        if len({len(column) for column in columns}) != 1 or len(columns) != width:
            raise BadInput(f"{name}, case {number}: its {len(columns)} dimensions differ in length or number")
        rows.append((torch.tensor(columns).T.contiguous(), label, f"case {number} of {name}"))
    return rows


def _make_dataset(
    name: str, rows_by_split: dict[str, Rows], is_sound: bool, source: str, splitting: str = ""
) -> SpeakerDataset:
    classes = tuple(sorted({label for _, label, _ in rows_by_split["train"]}))
    if len(classes) < 2:
        raise BadInput(f"{name} has only the speaker {classes[0]!r}; at least two are needed")
    number = {label: i for i, label in enumerate(classes)}
    parts = {}
    for split, rows in rows_by_split.items():
        if unknown := [label for _, label, _ in rows if label not in number]:
            raise BadInput(f"{name}: {unknown[0]!r} is in {split}, but not in train")
        labels = [number[label] for _, label, _ in rows]
        pool = SpeakerSplit([item for item, _, _ in rows], labels, [name for _, _, name in rows])
        parts[split] = full_subset(pool, np.array(pool.labels))
    published = [split for split in ("val", "test") if split in parts]
    train = parts["train"]
    counts, needed = np.bincount(train.labels, minlength=len(classes)), 3 - len(published)
    if counts.min() < needed:
        rarest = classes[counts.argmin()]
        raise BadInput(f"speaker {rarest!r} of {name} has {counts.min()}; at least {needed} are needed")
    if "test" not in parts:
        train, parts["test"] = stratified_split(train, round(0.1 * len(train.labels)), len(classes))
    if "val" not in parts:
        share = 0.1 if published else 1 / 9
        train, parts["val"] = stratified_split(train, round(share * len(train.labels)), len(classes), salt=1)
    parts["train"] = train
    splits = {s: part.pool.subset(part.index.tolist()) for s, part in parts.items()}
    sizes = " / ".join(f"{len(splits[split])} {split}" for split in ("train", "val", "test"))
    splitting = splitting or ("test as published, val split by speaker" if published else "split by speaker")
    description = f"{source}; {len(classes)} speakers, {sizes} ({splitting})"
    return SpeakerDataset(name, classes, **splits, is_sound=is_sound, description=description)
