"""Images of a Hugging Face data set."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from torchstone.data.hub_splits import load_hub_splits
from torchstone.data.splits import Source, Subset, make_source
from torchstone.data.text_files import is_missing, report_not_utf8
from torchstone.errors import BadInput

SPLITS = ("train", "val", "test")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "target")


@dataclass(frozen=True)
class HuggingFacePool:
    """An image column of a Hugging Face data set."""

    table: Any
    column: str
    name: str

    def __getitem__(self, i: int) -> Image.Image:
        return self.table[i][self.column]

    def describe(self, i: int) -> str:
        return f"row {i} of {self.name}"

    def content(self, i: int) -> Any:
        """The image's bytes as stored."""
        stored = self._undecoded[i][self.column]
        if stored["bytes"]:
            return stored["bytes"]
        file = Path(stored["path"] or "")  # one that is missing is named where it is decoded
        return file if file.is_file() else str(file)

    @functools.cached_property
    def _undecoded(self) -> Any:
        from datasets import Image

        return self.table.cast_column(self.column, Image(decode=False))


def read(spec: str) -> Source:
    """`hf:NAME`: the first column of images, and the column of labels."""
    splits, unused = load_hub_splits(spec)
    import datasets

    image = _image_column(splits["train"].features, datasets.Image)
    if image is not None and not isinstance(splits["train"].features[image], datasets.Image):
        splits = {split: table.cast_column(image, datasets.Image()) for split, table in splits.items()}
    features = splits["train"].features
    if image is None:
        raise BadInput(f"{spec} has no column of images, only {', '.join(features)}")
    label = _label_column(spec, features, datasets.ClassLabel)
    with report_not_utf8(spec):
        columns = {
            s: [_label_value(value, f"{spec}, {s}: {label}") for value in splits[s][label]]
            for s in SPLITS
            if s in splits and label in splits[s].column_names
        }
    notes = [f"{s} has no labels: left out" for s in SPLITS if s in splits and s not in columns]
    if isinstance(features[label], datasets.ClassLabel):
        values = list(range(features[label].num_classes))
        classes = tuple(features[label].names)
    else:
        values = sorted({value for value in columns["train"] if not is_missing(value)})
        classes = tuple(str(value) for value in values)
    number = {value: i for i, value in enumerate(values)}
    subsets, without = {}, 0
    for split, column in columns.items():
        labels = np.array([number.get(value, -1) for value in column], dtype=np.int64)
        if split != "train" and (labels < 0).all():
            notes.append(f"{split} has no labels: left out")
            continue
        table = splits[split].select_columns([image])
        # undecoded: a missing image is None there, while a damaged one is named when it is read
        stored = table.cast_column(image, datasets.Image(decode=False))[image]
        has_image = np.array([value is not None for value in stored], dtype=bool)
        rows = np.flatnonzero((labels >= 0) & has_image)
        if unknown := {v for v in column if v not in number and not is_missing(v) and v != -1}:
            raise BadInput(f"{spec}: {split} has the label {unknown.pop()!r}, train has not")
        without += len(labels) - len(rows)
        pool = HuggingFacePool(table, image, f"{split} of {spec}")
        subsets[split] = Subset(pool, labels[rows], rows)
    if without:
        notes.append(f"{without} rows without an image or a label left out")
    description = f"{spec}: columns {image!r} and {label!r}, {len(classes)} classes"
    description += unused + "".join(f", {note}" for note in notes)
    return make_source(spec, classes, subsets, description)


def _image_column(features: Any, image: type) -> str | None:
    """The column of images: one that says so, else one of files as bytes, as in Parquet of other writers."""
    if declared := [name for name, feature in features.items() if isinstance(feature, image)]:
        return declared[0]
    stored = [
        name
        for name, feature in features.items()
        if (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
        or getattr(feature, "dtype", None) in ("binary", "large_binary")
    ]
    return stored[0] if len(stored) == 1 else None


def _label_value(value: Any, name: str) -> Any:
    """A label as stored; None where it is missing, and whole numbers as such, which a column with gaps holds
    as floats.

    Raises:
        BadInput: it is no whole number; the message begins with `name`.
    """
    if is_missing(value) or value == "":
        return None
    if isinstance(value, float):
        if not value.is_integer():
            raise BadInput(f"{name} holds {value:g}, and labels are names or whole numbers")
        return int(value)
    return value


def _label_column(spec: str, features: Any, class_label: type) -> str:
    """The column of labels: one with a usual name, else the first `ClassLabel` or the only other one."""
    class_columns = [name for name, feature in features.items() if isinstance(feature, class_label)]
    integers = ("int8", "int16", "int32", "int64", "uint8", "uint16")
    types = {"string", "large_string", "bool", *integers}
    plain = [name for name, feature in features.items() if getattr(feature, "dtype", None) in types]
    floats = [
        name for name, feature in features.items() if str(getattr(feature, "dtype", "")).startswith("float")
    ]
    named = [name for name in floats if name in LABEL_COLUMNS]
    for columns in (class_columns, plain, named):
        for name in LABEL_COLUMNS:
            if name in columns:
                return name
        if columns and (columns is class_columns or len(columns) == 1):
            return columns[0]
    raise BadInput(f"{spec} has no column of labels among {', '.join(features)}; name one 'label'")
