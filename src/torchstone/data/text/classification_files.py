"""Files of labeled text: tables, JSON lines, CoNLL's format, folders of them, Hugging Face data sets."""

import csv
import io
import json
from pathlib import Path

from torchstone.data.splits import SPLIT_NAMES
from torchstone.errors import BadInput

LABEL = ("label", "labels", "class", "category", "sentiment", "target", "gold_label")
FIRST = ("text", "sentence", "sentence1", "text_a", "premise", "question", "question1", "review")
SECOND = ("text2", "sentence2", "text_b", "hypothesis", "question2", "answer")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".conll", ".iob", ".bio")

Example = tuple[str | tuple[str, ...], str | None, str | tuple[str, ...]]  # text, second, label(s)


def read_folder(path: Path) -> dict[str, list[Example]]:
    """Splits of a folder by the names of its files (`train.tsv`, `dev.tsv`, …)."""
    files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES and f.stem in SPLIT_NAMES)
    splits = {SPLIT_NAMES[each.stem]: read_file(each) for each in files}
    if "train" not in splits:
        raise BadInput(f"{path} has no train file ({', '.join('train' + suffix for suffix in SUFFIXES[:4])})")
    return splits


def read_file(path: Path) -> list[Example]:
    """Examples of one file, in the format that its suffix says."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    if path.suffix in (".conll", ".iob", ".bio"):
        examples = _parse_conll(path, text)
    elif path.suffix == ".jsonl":
        examples = _to_examples(path, *_parse_jsonl(path, text))
    elif path.suffix in (".csv", ".tsv"):
        examples = _to_examples(path, *_parse_table(path, text))
    else:
        raise BadInput(f"{path} is no labeled text: give {', '.join(SUFFIXES)}")
    if not examples:
        raise BadInput(f"{path} is empty: give a text and its label per line")
    return examples


def _parse_conll(path: Path, text: str) -> list[Example]:
    examples, words, labels = [], [], []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        cells = line.split()
        if cells and cells[0] == "-DOCSTART-":
            continue
        if cells and len(cells) < 2:
            raise BadInput(f"{path}, line {number}: {line!r} has no label; give a word and its label")
        if cells:
            words.append(cells[0])
            labels.append(cells[-1])
        elif words:
            examples.append((tuple(words), None, tuple(labels)))
            words, labels = [], []
    return examples


def _parse_jsonl(path: Path, text: str) -> tuple[list[str], list[list[str]]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            row = None
        if not isinstance(row, dict) or (rows and row and row.keys() != rows[0].keys()):
            raise BadInput(f"{path}, line {number} is no JSON object with the keys of the first")
        rows += [row] if row else []
    names = list(rows[0]) if rows else []
    return names, [["" if row[name] is None else str(row[name]) for name in names] for row in rows]


def _parse_table(path: Path, text: str) -> tuple[list[str] | None, list[list[str]]]:
    is_tsv = path.suffix == ".tsv"
    quotes = csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
    lines = io.StringIO(text, newline="")
    try:
        rows = [r for r in csv.reader(lines, delimiter="\t" if is_tsv else ",", quoting=quotes) if r]
    except csv.Error as error:
        raise BadInput(f"{path} is not a table of text: {error}") from None
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise BadInput(f"{path}, row {number}: {len(row)} cells where row 1 has {len(rows[0])}")
    has_header = bool(rows) and any(cell.strip().lower() in LABEL for cell in rows[0])
    return ([cell.strip() for cell in rows[0]] if has_header else None), rows[has_header:]


def _to_examples(path: Path, names: list[str] | None, rows: list[list[str]]) -> list[Example]:
    """Examples of a table; without a header the label is the last of two or three columns."""
    if not rows:
        return []
    if names is None and len(rows[0]) not in (2, 3):
        raise BadInput(f"{path} has {len(rows[0])} columns without names: name text and label")
    names = names or (["text", "label"] if len(rows[0]) == 2 else ["text", "text2", "label"])
    lower = [name.lower() for name in names]
    columns = [next((lower.index(n) for n in known if n in lower), None) for known in (FIRST, SECOND, LABEL)]
    first, second, label = columns
    if first is None or label is None:
        missing = "label" if label is None else "text"
        raise BadInput(f"{path} has no column named {missing}, only {', '.join(names)}")
    for number, row in enumerate(rows, 1):
        if not row[label].strip() or not row[first].strip():
            empty = "label" if row[first].strip() else "text"
            raise BadInput(f"{path}, data row {number}: the {empty} is empty")
    return [(row[first], row[second] if second is not None else None, row[label].strip()) for row in rows]


def read_hub(spec: str) -> dict[str, list[Example]]:
    """Splits of the Hugging Face data set `hf:NAME`; a split published without labels is left out."""
    try:
        import datasets
    except ImportError:
        raise BadInput(f"{spec} needs Hugging Face datasets: pip install 'torchstone[hf]'") from None
    try:
        tables = datasets.load_dataset(spec[3:])
    except Exception as error:  # noqa: BLE001 -- any of a dozen kinds, often of several lines
        raise BadInput(f"cannot load {spec}: {str(error).strip().splitlines()[0]}") from None
    splits = {}
    for split, table in tables.items():
        to_name = {n: f.int2str for n, f in table.features.items() if hasattr(f, "int2str")}
        columns = [
            [str(to_name[n](v)) if n in to_name and v >= 0 else str(v) for v in table[n]]
            for n in table.column_names
        ]
        rows = [list(row) for row in zip(*columns, strict=True)]
        examples = _to_examples(Path(f"{spec}, {split}"), list(table.column_names), rows)
        if all(label != "-1" for _, _, label in examples):  # a test split published without labels
            splits[SPLIT_NAMES.get(str(split), str(split))] = examples
    if "train" not in splits:
        raise BadInput(f"{spec} has no split named train, only {', '.join(map(str, tables))}")
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}
