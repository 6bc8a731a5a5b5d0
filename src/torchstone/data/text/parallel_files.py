"""Parallel text files: two files aligned line by line, or the columns of one."""

import gzip
import zlib
from pathlib import Path

from torchstone.errors import BadInput

Pairs = list[tuple[str, str]]

# codes of languages, which name columns
CODES = """
    af ar bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr hu hy id is it ja ka kk km kn
    ko la lo lt lv mk ml mn mr ms mt my ne nl no pa pl pt ro ru sk sl sq sr sv sw ta te th tl tr uk
    ur uz vi zh
"""
LANGUAGES = frozenset(CODES.split())
HEADERS = {("source", "target"), ("input", "output"), ("text", "translation")}


def read_lines(file: Path, *, strip: str | None = None) -> list[str]:
    """The lines of a text file, stripped of white space or of the characters in `strip`."""
    if not file.is_file():
        raise BadInput(f"{file} does not exist; give a text file, one sentence per line")
    data = file.read_bytes()
    if file.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"{file} is not a complete gzip file: {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = data[error.start]
        raise BadInput(
            f"line {line} of {file} is not UTF-8 (byte 0x{byte:02x}): convert the file to UTF-8"
        ) from None
    # not splitlines(), which also splits at other separators: the two files would lose their alignment
    lines = [line.strip(strip) for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise BadInput(f"{file} is empty; give a text file, one sentence per line")
    return lines


def read_aligned(first: Path, second: Path) -> Pairs:
    """Pairs of line i of one file and line i of the other."""
    sides = read_lines(first), read_lines(second)
    if len(sides[0]) != len(sides[1]):
        raise BadInput(
            f"{first.name} has {len(sides[0])} lines, {second.name} {len(sides[1])}: line i of one "
            "must be the translation of line i of the other"
        )
    return drop_empty_pairs(list(zip(*sides, strict=True)), (str(first), str(second)))


def drop_empty_pairs(pairs: Pairs, names: tuple[str, str]) -> Pairs:
    """The pairs without those that are empty on both sides; one empty side is an error."""
    for number, pair in enumerate(pairs, 1):
        if bool(pair[0]) != bool(pair[1]):
            side = names[bool(pair[0])]
            raise BadInput(f"line {number} of {side} is empty, the other side is not: fill or remove both")
    return [pair for pair in pairs if pair[0]]


def read_columns(file: Path, source: str, target: str) -> tuple[Pairs, tuple[str, str]]:
    """Two columns of a tab-separated file: those that a header names, else the first two; and their names,
    empty where the file does not give them.

    Raises:
        BadInput: a header names one side alone, or twice; a side of numbers among more columns; an empty
            side.
    """
    # a tab at an end stands for an empty cell
    rows = [line.split("\t") for line in read_lines(file, strip=" \r\ufeff")]
    header = [cell.strip() for cell in rows[0]]
    indices, names = (0, 1), ("", "")
    if source and target and {source, target} <= set(header):
        if twice := next((name for name in (source, target) if header.count(name) > 1), None):
            raise BadInput(f"{file} has two columns named {twice}: rename one of them")
        indices, names, rows = (header.index(source), header.index(target)), (source, target), rows[1:]
    elif source and target and (source in header or target in header):
        missing = target if source in header else source
        raise BadInput(f"{file} has no column named {missing}, only {', '.join(header)}")
    elif tuple(cell.lower() for cell in header[:2]) in HEADERS:
        rows = rows[1:]
    elif len({*header[:2]} & LANGUAGES) == 2 and header[:2] not in rows[1:]:
        names, rows = (header[0], header[1]), rows[1:]
    if indices == (0, 1) and len(header) > 2:
        for i in indices:
            if all(row[i].strip().isdigit() for row in rows[1:] if len(row) > i):
                raise BadInput(
                    f"{file} has {len(header)} columns, and column {i + 1} holds numbers, no texts: put the "
                    "two sides first, or name all columns in a first row and give --source and --target"
                )
    pairs = []
    for number, row in enumerate(rows, 1):
        if len(row) <= max(indices) and any(row):
            raise BadInput(
                f"row {number} of {file} has {len(row)} column{'s' * (len(row) > 1)}, not "
                f"{max(indices) + 1}: source and target, with a tab between them"
            )
        first, second = (row[i].strip() if len(row) > i else "" for i in indices)
        pairs.append((first, second))
    return drop_empty_pairs(pairs, (f"column {indices[0] + 1} of {file}", f"column {indices[1] + 1}")), names
