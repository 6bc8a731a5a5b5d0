"""Sequences of vectors, or sounds, that each have one label: who speaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchstone.data import download
from torchstone.data.audio.files import read_fsdd, read_audio, find_audio_files
from torchstone.data.splits import cut, whole
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("japanese_vowels",)
AEON = ("aeon==1.6.0", "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409", 6.4)
VOWELS = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"


@dataclass(frozen=True)
class SpeakerSplit:
    """One split: waves (samples,) or vectors (frames, width), and the number of each one's class."""

    items: Sequence[Tensor]
    labels: Sequence[int]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Tensor:
        return self.items[i]

    def where(self, i: int) -> str:
        """Names one in a message."""
        return self.names[i]

    def pick(self, index: Sequence[int]) -> "Voices":
        """Those of these numbers."""
        return SpeakerSplit(
            [self.items[i] for i in index],
            [self.labels[i] for i in index],
            [self.names[i] for i in index],
        )


def concat_splits(*parts: SpeakerSplit) -> SpeakerSplit:
    """Several splits as one."""
    names = ("items", "labels", "names")
    return SpeakerSplit(*([one for part in parts for one in getattr(part, name)] for name in names))


@dataclass(frozen=True)
class SpeakerDataset:
    """A set in its three parts; `sounds` says that the items are waves."""

    name: str
    classes: tuple[str, ...]
    train: SpeakerSplit
    val: SpeakerSplit
    test: SpeakerSplit
    sounds: bool
    note: str


def read_speakers(spec: str, rate: int) -> SpeakerDataset:
    """Read what a person named; sounds at `rate` samples a second.

    - `japanese_vowels`: 12 cepstra a frame of two vowels by nine men (Kudo, Toyama and Shimbo 1999),
      its published split: 270 for training, 370 for the test
    - `NAME_TRAIN.ts`, with `NAME_TEST.ts` beside it: any set in that form, of equal sampling
    - the Free Spoken Digit Dataset, zip file or folder: its speakers, its official test indices
    - a folder with a sub-folder of sound files for each speaker

    Where a test is published, a tenth of the rest is cut off by class for validation; else a tenth
    for the test first. The same always.

    Raises:
        BadInput: nothing there, something in it that cannot be used, a speaker with too few.
    """
    if spec == "japanese_vowels":
        with download.archive(*AEON) as opened:
            texts = [opened.read(VOWELS.format(split)).decode() for split in ("TRAIN", "TEST")]
        found = [_read_ts(text, spec) for text in texts]
        said = (
            "japanese_vowels: two vowels spoken by nine men, 12 cepstra a frame, from the aeon 1.6.0 archive"
        )
        return _finish(spec, {"train": found[0], "test": found[1]}, False, said)
    path = Path(spec).expanduser()
    if spec.endswith("_TRAIN.ts"):
        parts = {}
        for split in ("train", "test"):
            file = path.with_name(path.name.replace("_TRAIN.ts", f"_{split.upper()}.ts"))
            if not file.is_file():
                raise BadInput(f"there is no {file}: NAME_TRAIN.ts and NAME_TEST.ts belong together")
            parts[split] = _read_ts(file.read_text(encoding="utf-8"), str(file))
        return _finish(path.name, parts, False, spec)
    if not path.exists():
        said = f"({did_you_mean(spec, BUNDLED)}); give a folder with a sub-folder of sounds a speaker"
        raise BadInput(f"no voices at {spec!r} {said}")
    if found := read_fsdd(path, rate):
        parts = {s: [(r.wave, r.speaker, r.name) for r in each] for s, each in found.items()}
        kept = "test: indices 0 to 4, as published; val: 5 to 7"
        return _finish(path.name, parts, True, f"{spec}: spoken digits", kept)
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith(".")) if (
        path.is_dir()
    ) else []  # fmt: skip
    listed = [(file, folder.name) for folder in folders for file in find_audio_files(folder)]
    if not listed:
        raise BadInput(f"{spec} is no set of voices: give a folder with a sub-folder a speaker")
    rows = [(read_audio(file, rate), speaker, str(file)) for file, speaker in listed]
    return _finish(path.name, {"train": rows}, True, spec)


Rows = list[tuple[Tensor, str, str]]  # item, class, name


def _read_ts(text: str, name: str) -> Rows:
    """The cases of a .ts file: dimensions apart by `:`, values by `,`, the class last."""
    head, _, data = text.partition("@data")
    if not data.strip() or "@timestamps true" in head.lower():
        raise BadInput(f"{name} is no .ts file of series without time stamps and with a class each")
    rows, width = [], 0
    for number, line in enumerate(data.strip().splitlines(), 1):
        *dimensions, label = line.strip().split(":")
        try:
            columns = [[float(value) for value in one.split(",")] for one in dimensions]
        except ValueError:
            raise BadInput(f"{name}, case {number}: a value is missing or no number") from None
        width = width or len(columns)
        if len({len(column) for column in columns}) != 1 or len(columns) != width:
            raise BadInput(f"{name}, case {number}: its {len(columns)} dimensions are not alike")
        rows.append((torch.tensor(columns).T.contiguous(), label, f"case {number} of {name}"))
    return rows


def _finish(name: str, splits: dict[str, Rows], sounding: bool, note: str, kept: str = "") -> SpeakerDataset:
    classes = tuple(sorted({label for _, label, _ in splits["train"]}))
    if len(classes) < 2:
        raise BadInput(f"{name} has the one speaker {classes[0]!r}; at least two are needed")
    number = {label: i for i, label in enumerate(classes)}
    parts = {}
    for split, rows in splits.items():
        if unknown := [label for _, label, _ in rows if label not in number]:
            raise BadInput(f"{name}: {unknown[0]!r} is in {split}, but not in train")
        labels = [number[label] for _, label, _ in rows]
        pool = SpeakerSplit([item for item, _, _ in rows], labels, [name for _, _, name in rows])
        parts[split] = whole(pool, np.array(pool.labels))  # ty: ignore[invalid-argument-type]
    published = [split for split in ("val", "test") if split in parts]
    train = parts["train"]
    counts, least = np.bincount(train.labels, minlength=len(classes)), 3 - len(published)
    if counts.min() < least:
        few = classes[counts.argmin()]
        raise BadInput(f"speaker {few!r} of {name} has {counts.min()}; at least {least} are needed")
    if "test" not in parts:
        train, parts["test"] = cut(train, round(0.1 * len(train.labels)), len(classes))
    if "val" not in parts:
        share = 0.1 if published else 1 / 9
        train, parts["val"] = cut(train, round(share * len(train.labels)), len(classes), salt=1)
    parts["train"] = train
    done = {s: part.pool.pick(part.index.tolist()) for s, part in parts.items()}
    sizes = " / ".join(f"{len(done[split])} {split}" for split in ("train", "val", "test"))
    kept = kept or ("test as published, val cut by speaker" if published else "cut by speaker")
    note = f"{note}; {len(classes)} speakers, {sizes} ({kept})"
    return SpeakerDataset(name, classes, done["train"], done["val"], done["test"], sounding, note)
