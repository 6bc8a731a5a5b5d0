#!/usr/bin/env bash
# datasets takes the class names of a data set from its first Parquet file. A second file whose own metadata
# lists the same names in another order is read under the names of the first: no error, no warning, and each
# cat of it is a dog. So are the rows of `Dataset.cast` to another order; only `align_labels_with_mapping`
# moves the numbers with the names.
#
# It matters wherever splits or shards were written by separate scripts, each with its own order of classes:
# the accuracy on the test split of a perfect two-class model is 0, and of many classes quietly lower.
#
# The product compares what the files of a folder state before it trains on them, and refuses them with both
# orders named: tests/data/test_class_names.py, test_class_names_in_two_orders_are_refused.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet datasets==5.2.0 pyarrow==26.0.1
HF_HOME="$work/cache" HF_HUB_OFFLINE=1 venv/bin/python -I - <<'PY'
import sys

import datasets
import pyarrow
import pyarrow.parquet

datasets.disable_progress_bars()
print(f"datasets {datasets.__version__}, pyarrow {pyarrow.__version__}")


def features(names):
    return datasets.Features({"animal": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})


orders = {"train": ["cat", "dog"], "test": ["dog", "cat"]}
made = {}
for split, names in orders.items():
    columns = {"animal": ["cat", "dog"], "label": [names.index("cat"), names.index("dog")]}
    made[split] = datasets.Dataset.from_dict(columns, features=features(names))
    made[split].to_parquet(f"{split}.parquet")
    schema = pyarrow.parquet.read_schema(f"{split}.parquet")
    print(f"{split}.parquet states", datasets.Features.from_arrow_schema(schema)["label"].names)


def named(table):
    return list(zip(table["animal"], table.features["label"].int2str(table["label"])))


right = [("cat", "cat"), ("dog", "dog")]
wrong = [("cat", "dog"), ("dog", "cat")]
loaded = datasets.load_dataset("parquet", data_files={split: f"{split}.parquet" for split in orders})
alone = datasets.load_dataset("parquet", data_files="test.parquet")["train"]
cast = made["test"].cast(features(orders["train"]))
aligned = made["test"].align_labels_with_mapping({"cat": 0, "dog": 1}, "label")
print("expected: every animal has its own name as label, in whatever order a file numbers the classes")
for name, table, expected in (
    ("train of both files", loaded["train"], right),
    ("test of both files", loaded["test"], wrong),
    ("test.parquet alone", alone, right),
    ("test after cast", cast, wrong),
    ("test after align_labels_with_mapping", aligned, right),
):
    print(f"{name}: {named(table)}")
    if named(table) != expected:
        sys.exit(f"CHANGED: {name} was {expected}")
print("confirmed: the names of the first file are put on the numbers of the second")
PY
