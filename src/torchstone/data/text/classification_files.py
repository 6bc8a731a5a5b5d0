"""Files of labeled text: tables, JSON lines, CoNLL's format, folders of them, Hugging Face data sets."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchstone.data.bad_files import read_good
from torchstone.data.hub_splits import load_hub_splits
from torchstone.data.splits import find_splits
from torchstone.data.text_files import (
    MISSING_TEXTS,
    find_delimiter,
    is_missing,
    optional_text,
    read_rows,
    read_utf8,
    report_not_utf8,
)
from torchstone.errors import BadInput
from torchstone.files import parse_json

LABEL = ("label", "labels", "class", "category", "sentiment", "target", "gold_label")
FIRST = ("text", "sentence", "sentence1", "text_a", "premise", "question", "question1", "review")
SECOND = ("text2", "sentence2", "text_b", "hypothesis", "question2", "answer")
EXPLICIT = ("text", "label", "labels")  # names that no other contests
QUESTION = ("question", "sentence")  # two names of a first text that are a pair, as in QNLI
MISSING_LABELS = MISSING_TEXTS | {"na", "n/a", "?"}
CONLL = (".conll", ".iob", ".bio")
SUFFIXES = (".csv", ".tsv", ".jsonl", *CONLL)

Example = tuple[str | tuple[str, ...], str | None, str | tuple[str, ...]]  # text, second, label(s)


def read_folder(path: Path, *, skip: bool = False) -> tuple[dict[str, list[Example]], str]:
    """Splits of a folder by the names of its files (`train.tsv`, `dev.tsv`, …), and what was left out."""
    names = (f.name for f in sorted(path.iterdir()) if f.suffix.lower() in SUFFIXES)
    files = find_splits(names, path, are_files=True)
    read = {split: read_file(path / name, skip=skip) for split, name in files.items()}
    splits = {split: examples for split, (examples, _) in read.items()}
    if "train" not in splits:
        raise BadInput(f"{path} has no train file ({', '.join('train' + suffix for suffix in SUFFIXES[:4])})")
    return splits, "".join(note for _, note in read.values())


def read_file(path: Path, *, skip: bool = False) -> tuple[list[Example], str]:
    """Examples of one file, in the format that its suffix says, and what was left out."""
    text, left_out, suffix = read_utf8(path), "", path.suffix.lower()
    if suffix in CONLL:
        examples = _parse_conll(path, text)
    elif suffix in SUFFIXES:
        parse = _parse_jsonl if suffix == ".jsonl" else _parse_table
        examples, left_out = _to_examples(path, *parse(path, text), skip=skip)
    else:
        raise BadInput(f"{path} is no labeled text: give {', '.join(SUFFIXES)}")
    if not examples:
        raise BadInput(f"{path} is empty: give a text and its label per line")
    return examples, left_out


def read_unlabeled(path: Path, *, pairs: bool, words: bool) -> list[tuple[str, str | None]]:
    """The texts of a file to classify, and the second texts where they are `pairs`: the named columns of a
    table, the words of CoNLL's format, or the lines of any other file.

    Raises:
        BadInput: nothing in it; a table that does not say which column holds the texts.
    """
    text, suffix = read_utf8(path), path.suffix.lower()
    if suffix in CONLL and words:
        found = [(" ".join(sentence), None) for sentence, _, _ in _parse_conll(path, text, has_labels=False)]
    elif suffix in (".csv", ".tsv", ".jsonl"):
        names, rows = (_parse_jsonl if suffix == ".jsonl" else _parse_table)(path, text)
        columns = _text_columns(path, names, rows, pairs=pairs)
        for number, row in enumerate(rows, 1):
            if any(not row[column].strip() for column in columns):
                raise BadInput(f"{path}, data row {number}: the text is empty")
        found = [(row[columns[0]], row[columns[1]] if pairs else None) for row in rows]
    else:
        found = [(line, None) for line in text.split("\n") if line.strip()]
    if not found:
        raise BadInput(f"{str(path)!r} holds no text")
    return found


def _text_columns(path: Path, names: list[str] | None, rows: list[list[str]], *, pairs: bool) -> list[int]:
    """The columns of texts to classify, by their names; without names all columns are texts."""
    wanted = (FIRST, SECOND) if pairs else (FIRST,)
    if names is None:
        if not rows or len(rows[0]) == len(wanted):
            return list(range(len(wanted)))
        raise BadInput(
            f"{path} has {len(rows[0])} columns without names: name the one with texts {FIRST[0]!r}"
        )
    lower = _lower(names)
    columns = [next((lower.index(n) for n in known if n in lower), None) for known in wanted]
    found = [column for column in columns if column is not None]
    if len(found) < len(wanted):
        missing = wanted[columns.index(None)][0]
        raise BadInput(f"{path} has no column named {missing}, only {', '.join(names)}")
    return found


def _parse_conll(path: Path, text: str, *, has_labels: bool = True) -> list[Example]:
    """Sentences of words with their labels: the first and the last column.

    Raises:
        BadInput: a word without a label, or a line that is no word with its label.
    """
    # not splitlines() and split(), which also split at separators that a word may hold
    lines = [line.strip(" \t") for line in text.split("\n")]
    rows = [re.split("[ \t]+", line) if line else [] for line in lines]
    rows = _split_at_tabs(lines, rows)
    if (
        has_labels
        and (cells := [cell for row in rows for cell in row])
        and all("|" in cell for cell in cells)
    ):
        raise BadInput(f"{path} has a sentence on each line, as {cells[0]}: give a word and its label a line")
    labels_of_words = {row[-1] for row in rows if len(row) > 1 and not row[0].startswith("#")}
    examples, words, labels = [], [], []
    for number, cells in enumerate([*rows, []], 1):
        if cells and cells[0] == "-DOCSTART-":
            continue
        if cells and not words and _is_comment(cells, labels_of_words):
            continue
        if len(cells) == 1 and has_labels:
            raise BadInput(f"{path}, line {number}: {cells[0]!r} has no label; give a word and its label")
        if cells:
            words.append(cells[0])
            labels.append(cells[-1])
        elif words:
            examples.append((tuple(words), None, tuple(labels)))
            words, labels = [], []
    numbered = [re.fullmatch(r"\d+([-.]\d+)?", word) for words, _, _ in examples for word in words]
    if len(numbered) > len(examples) and all(numbered):
        raise BadInput(
            f"{path} numbers its words in the first column, as CoNLL-U does: give a word and its label"
        )
    return examples


def _split_at_tabs(lines: list[str], rows: list[list[str]]) -> list[list[str]]:
    """The cells between tabs, where only these make columns: a word can hold a space."""
    between = [line.split("\t") if line else [] for line in lines]
    counts, at_tabs = ({len(row) for row in each if row} for each in (rows, between))
    has_columns = len(at_tabs) == 1 and min(at_tabs) > 1 and len(counts) > 1
    return [[cell.strip() for cell in row] for row in between] if has_columns else rows


def _is_comment(cells: list[str], labels: set[str]) -> bool:
    """Whether a line that begins with #, where a sentence could begin, is no word: its last cell is no
    label that any word has."""
    return cells[0].startswith("#") and (len(cells) == 1 or cells[-1] not in labels)


def _parse_jsonl(path: Path, text: str) -> tuple[list[str], list[list[str]]]:
    """Names and cells of the objects; a key that one lacks, as some writers leave out nulls, is empty."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = parse_json(line) if line.strip() else {}
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise BadInput(f"{path}, line {number} is no JSON object: give one a line, with text and label")
        rows += [row] if row else []
    names = list(dict.fromkeys(name for row in rows for name in row))
    used = [name for name in names if name.lower() in (*FIRST, *SECOND, *LABEL)]
    cells = [
        [(optional_text(row.get(name), f"{path}: {name}") or "") if name in used else "" for name in names]
        for row in rows
    ]
    return names, cells


def _parse_table(path: Path, text: str) -> tuple[list[str] | None, list[list[str]]]:
    delimiter, is_tsv = "\t", path.suffix.lower() == ".tsv"
    if not is_tsv:
        stated = re.match(r"sep=(.)\n", text)  # how spreadsheets say it
        text = text[stated.end() :] if stated else text
        delimiter = stated[1] if stated else find_delimiter(text, str(path), _is_header)
    rows = read_rows(text, str(path), delimiter, quoted=not is_tsv)
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise BadInput(f"{path}, row {number}: {len(row)} cells where row 1 has {len(rows[0])}")
    if not rows or not _is_header(rows[0], rows[1:]):
        _refuse_words(path, text, rows)
        return None, rows
    names = [cell.strip() for cell in rows[0]]
    return names, rows[1:]


def _is_header(cells: Sequence[str], below: Sequence[Sequence[str]] = ()) -> bool:
    """Whether a first row names a text or a label: a name that recurs in its column is a value."""
    known = [i for i, cell in enumerate(cells) if cell.strip().lower() in (*LABEL, *FIRST)]
    return any(all(row[i].strip() != cells[i].strip() for row in below) for i in known)


def _refuse_words(path: Path, text: str, rows: list[list[str]]) -> None:
    """Refuse a table that is one of words with their labels, with an empty line after each sentence."""
    blocks = [block.count("\n") for block in re.split(r"\n[ \t]*\n", text.strip("\n"))]
    if len(blocks) > 1 and max(blocks) > 0 and not any(" " in row[0].strip() for row in rows):
        raise BadInput(
            f"{path} has a word on each row, and empty lines between: if these are sentences with labelled "
            f"words, call it {path.with_suffix('.conll').name}; if each row is a text, remove the empty lines"
        )


def _to_examples(
    path: Path, names: list[str] | None, rows: list[list[str]], *, skip: bool
) -> tuple[list[Example], str]:
    """Examples of a table; without a header the label is the last of two or three columns, or the first
    where that one alone has values that recur."""
    if not rows:
        return [], ""
    if names is None:
        names = _guess_names(path, rows)
    first, second, label = _columns(path, names)

    def example(number: int) -> Example:
        row = rows[number - 1]
        for column, words in ((first, MISSING_TEXTS), (label, MISSING_LABELS)):
            cell, name = row[column].strip(), "text" if column == first else "label"
            if not cell:
                raise BadInput(f"{path}, data row {number}: the {name} is empty")
            if cell.lower() in words:
                raise BadInput(f"{path}, data row {number}: the {name} is {cell!r}, which stands for none")
        return row[first], row[second] if second is not None else None, row[label].strip()

    examples, _, left_out = read_good(example, range(1, len(rows) + 1), skip=skip)
    used = {names[column] for column in (first, second, label) if column is not None}
    if unused := [name for name in names if name and name not in used]:
        left_out = f", column{'s' * (len(unused) > 1)} {', '.join(unused)} not read{left_out}"
    return examples, left_out


def _guess_names(path: Path, rows: list[list[str]]) -> list[str]:
    if len(rows[0]) not in (2, 3):
        raise BadInput(f"{path} has {len(rows[0])} columns without names: name text and label")
    texts = ["text", "text2"][: len(rows[0]) - 1]
    for column in (0, -1):  # the label, where all others of that column recur
        first, *others = Counter(row[column].strip() for row in rows).values()
        if first == 1 and others and min(others) > 1:
            shown = ", ".join(repr(cell.strip()[:40]) for cell in rows[0])
            raise BadInput(
                f"{path} begins with {shown}, of which one stands there alone while the others below it "
                "recur: if this is a header, call its columns text and label; else put these names before it"
            )
    different = [len({row[column].strip() for row in rows}) for column in (0, -1)]
    recurs = [count <= max(1, len(rows) // 2) for count in different]
    if recurs[0] and (not recurs[1] or different[0] < different[1]):
        if recurs[1]:
            raise BadInput(
                f"{path} has {different[0]} different values in its first column and {different[1]} in its "
                "last: name them text and label in a first row"
            )
        return ["label", *texts]
    return [*texts, "label"]


def _lower(names: Sequence[str]) -> list[str]:
    """Names of columns as the tables of known names have them."""
    lower = [name.lower() for name in names]
    if set(QUESTION) <= set(lower) and not set(lower) & {*SECOND, "text"}:
        lower[lower.index(QUESTION[1])] = SECOND[0]
    return lower


def _columns(path: Path, names: list[str]) -> tuple[int, int | None, int]:
    """The columns of text, second text and label.

    Raises:
        BadInput: one is missing, or several could be it.
    """
    lower = _lower(names)
    used = [name for name in lower if name in (*FIRST, *SECOND, *LABEL)]
    if twice := next((name for name in used if lower.count(name) > 1), None):
        raise BadInput(
            f"{path} has two columns named {twice}: name the one to use differently from the other"
        )
    for known, what in ((FIRST, "text"), (LABEL, "label")):
        found = [name for name in known if name in lower]
        if len(found) > 1 and found[0] not in EXPLICIT:
            raise BadInput(
                f"{path} has {' and '.join(found)}, which may each be the {what}: call the one to use {what}"
            )
    columns = [next((lower.index(n) for n in known if n in lower), None) for known in (FIRST, SECOND, LABEL)]
    first, second, label = columns
    if first is None or label is None:
        missing = "label" if label is None else "text"
        raise BadInput(f"{path} has no column named {missing}, only {', '.join(names)}")
    return first, second, label


def read_hub(spec: str) -> tuple[dict[str, list[Example]], str]:
    """Splits of the Hugging Face data set `hf:NAME`, and what was left out: rows without a text or a label,
    and splits published without labels."""
    tables, unused = load_hub_splits(spec)
    splits, without, notes = {}, 0, []
    columns = [
        tables["train"].column_names[i]
        for i in _columns(Path(spec), tables["train"].column_names)
        if i is not None
    ]
    for split in ("train", "val", "test"):
        if split not in tables:
            continue
        if lacking := [name for name in columns[:-1] if name not in tables[split].column_names]:
            raise BadInput(f"{spec}: {split} has no column {lacking[0]!r}, train has")
        if columns[-1] not in tables[split].column_names:
            notes.append(f"{split} has no labels: left out")
            continue
        with report_not_utf8(spec):
            examples, missing, has_labels = _hub_examples(f"{spec}, {split}", tables[split], columns)
        if split != "train" and not has_labels:
            notes.append(f"{split} has no labels: left out")
            continue
        splits[split], without = examples, without + missing
    if not splits["train"]:
        raise BadInput(f"{spec}: no row of train has a text and a label")
    if without:
        notes.append(f"{without} rows without a text or a label left out")
    return splits, unused + "".join(f", {note}" for note in notes)


def _hub_examples(name: str, table: Any, columns: list[str]) -> tuple[list[Example], int, bool]:
    """Examples of a table, how many rows lack a text or a label, and whether any row has a label."""
    label = columns[-1]
    class_names = getattr(table.features[label], "int2str", None)
    examples, missing, has_labels = [], 0, False
    for row in zip(*(table[column] for column in columns), strict=True):
        value = row[-1]
        if class_names and not is_missing(value):
            value = class_names(value) if value >= 0 else None
        texts = [
            optional_text(cell, f"{name}: {column}") for cell, column in zip(row[:-1], columns, strict=False)
        ]
        text = optional_text(value, f"{name}: {label}")
        has_labels |= bool(text and text.strip())
        if all(cell and cell.strip() for cell in (*texts, text)):
            examples.append((texts[0], texts[1] if len(texts) > 1 else None, str(text).strip()))
        else:
            missing += 1
    has_labels = has_labels and {label for *_, label in examples} != {"-1"}
    return examples, missing, has_labels
