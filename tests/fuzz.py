"""Fuzzing of readers: small files made valid in a test, then mutated, and what a reader must make of them.

A seed is a folder, as contents by file name. `fuzz` writes mutants of it, each by one to three mutations that
fit the file: of bytes, of text, of a table's cells, of JSON, of which files are there. A reader ends in a
result without NaN, or in one line of `BadInput`.
"""

import csv
import dataclasses
import io
import json
import math
import random
import re
import shutil
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchstone.data import identity
from torchstone.errors import BadInput

Files = Mapping[str, bytes]
SECONDS = 20  # after which a reader hangs
TABLES = (".csv", ".tsv", ".conll", ".ts")
TEXTS = (*TABLES, ".txt", ".jsonl", ".json", ".de", ".en", ".md")
WORDS = (
    *("", " ", "NaN", "nan", "inf", "-Infinity", "None", "null", "NA", "-", "?", "#", "0", "-0", "1", "-1"),
    *(
        "1e999",
        "1e308",
        "-1e308",
        "1e-320",
        "1e40",
        "9" * 400,
        "99999999999999999999",
        "-9223372036854775809",
    ),
    *("1_000", "1,5", "1.234,5", "12 %", "0x10", "٣", "１２", "²", "true", "2024-02-30", "0000-00-00"),
    *(
        "9999-12-31",
        "0001-01-01",
        "20240101",
        "2016-07-01T13:00+09:00",
        "2016Q5",
        "25:61",
        "1969-12-31 23:59",
    ),
    *(
        '"',
        'a"b',
        "'",
        "\\",
        "/",
        "../x",
        "\0",
        "\u2028",
        "\x85",
        "\ufeff",
        "\ud7ff",
        "é",
        "日本語",
        "🙂",
        "‮",
    ),
    *("x" * 200_000, "a b", "label", "text", "time", "index", ":", ";", "\t", "=1+1", "<b>", "[UNK]"),
)
VALUES = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, 1e308, 1e-320, math.nan),
    *(
        math.inf,
        -math.inf,
        "",
        "x",
        "NaN",
        "../x",
        "\0",
        "\ud800",
        "a\nb",
        [],
        [None],
        [[]],
        [[[]]],
        [1],
        ["x"],
        {},
        {"x": 1},
    ),
)


def bytes_mutated(data: bytes, numbers: random.Random) -> bytes:
    """Bytes cut off, cut out, doubled, swapped, changed or put in."""
    first, last = sorted(numbers.randint(0, len(data)) for _ in range(2))
    piece = data[first:last]
    kind = numbers.randrange(9)
    if kind == 0:
        return data[:first]
    if kind == 1:
        return data[:first] + data[last:]
    if kind == 2:
        return data[:last] + piece[:10_000] + data[last:]
    if kind == 3:
        middle = (first + last) // 2
        return data[:first] + data[middle:last] + data[first:middle] + data[last:]
    if kind == 4:
        return data[:first] + numbers.randbytes(numbers.choice((1, 4, 40))) + data[first:]
    if kind == 5:
        return numbers.choice((b"", b"\0", b"\0" * 100, b"\x80" * 100, numbers.randbytes(100)))
    changed = bytearray(data)
    for _ in range(numbers.choice((1, 2, 8)) if data else 0):  # headers are where sizes stand
        at = numbers.randrange(min(len(data), numbers.choice((16, 64, len(data)))) or 1)
        changed[at] = numbers.choice((0, 1, 127, 128, 255, changed[at] ^ (1 << numbers.randrange(8))))
    return bytes(changed)


def text_mutated(text: str, numbers: random.Random) -> bytes:
    """Lines in another order, doubled, gone or ended otherwise; other encodings; odd words and characters."""
    lines = text.split("\n")
    at = numbers.randrange(len(lines))
    kind = numbers.randrange(12)
    if kind == 0:
        numbers.shuffle(lines)
    elif kind == 1:
        lines[at:at] = numbers.choice(([lines[at]], [""], [" \t"], ["#"], [numbers.choice(WORDS)]))
    elif kind == 2:
        del lines[at : at + numbers.choice((1, 1, len(lines)))]
    elif kind == 3:
        lines = lines[:1] + lines[:1:-1]
    elif kind in (4, 5):
        where = numbers.randint(0, len(lines[at]))
        lines[at] = lines[at][:where] + numbers.choice(WORDS) + lines[at][where:]
    elif kind == 6:
        lines = [numbers.choice((" ", "\t", "")) + line + " " for line in lines]
    joined = numbers.choice(("\r\n", "\r", "\n\n")).join(lines) if kind == 7 else "\n".join(lines)
    codec = numbers.choice(("utf-8-sig", "utf-16", "latin-1", "cp1252")) if kind in (8, 9) else "utf-8"
    return joined.encode(codec, "replace")


def table_mutated(text: str, numbers: random.Random) -> bytes:
    """Other cells, columns, names, delimiters and quotes."""
    delimiter = max(",;\t :", key=text.partition("\n")[0].count)
    rows = [line.rstrip("\r").split(delimiter) for line in text.rstrip("\n").split("\n")]
    width = len(rows[0])
    row, column = numbers.randrange(len(rows)), numbers.randrange(width)
    kind = numbers.randrange(11)
    if kind <= 2:
        rows[row][min(column, len(rows[row]) - 1)] = numbers.choice(WORDS)
    elif kind == 3:  # a whole column of one word
        word = numbers.choice(WORDS)
        rows = [rows[0], *([*each[:column], word, *each[column + 1 :]] for each in rows[1:])]
    elif kind == 4:
        rows = [each[:column] + each[column + 1 :] for each in rows]
    elif kind == 5:
        rows = [[*each, *each[column : column + 1]] for each in rows]
    elif kind == 6:
        rows[0][column] = numbers.choice((rows[0][0], "", rows[0][0].upper(), numbers.choice(WORDS)))
    elif kind == 7:
        order = numbers.sample(range(width), width)
        rows = [[each[i] for i in order] if len(each) == width else each for each in rows]
    elif kind == 8:
        rows[row] = numbers.choice((rows[row] * 2, rows[row][:-1], [], [""] * width))
    elif kind == 9:
        delimiter = numbers.choice((",", ";", "\t", "|", " "))
    written = io.StringIO()
    quoting = csv.QUOTE_ALL if kind == 10 else csv.QUOTE_MINIMAL
    csv.writer(written, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows(rows)
    return written.getvalue().encode("utf-8", "replace")


def json_mutated(text: str, numbers: random.Random, *, lines: bool) -> bytes:
    """A value replaced, gone, doubled or under another name; nested deeply."""
    try:
        content = [json.loads(line) for line in text.split("\n") if line] if lines else json.loads(text)
    except (ValueError, RecursionError):
        return text_mutated(text, numbers)
    if numbers.randrange(30) == 0:
        return b"[" * 100_000
    parent = content
    while isinstance(parent, dict | list) and parent:
        key = numbers.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        child = parent[key]
        if isinstance(child, dict | list) and child and numbers.random() < 0.8:
            parent = child
            continue
        kind = numbers.randrange(6)
        if kind <= 3:
            parent[key] = numbers.choice(VALUES)
        elif kind == 4:
            del parent[key]
        elif isinstance(parent, dict):
            parent[numbers.choice(("x", "", key + " "))] = parent.pop(key)
        else:
            parent.append(child)
        break
    dump = lambda each: "9" * 5_000 if each == 10**400 else json.dumps(each)  # noqa: E731
    return ("\n".join(map(dump, content)) if lines and isinstance(content, list) else dump(content)).encode()


def mutated(name: str, data: bytes, numbers: random.Random) -> bytes:
    """A mutant of a file, of a kind that fits its name."""
    suffix = Path(name).suffix
    if suffix not in TEXTS or numbers.random() < 0.15:
        return bytes_mutated(data, numbers)
    text = data.decode("utf-8", "replace")
    if suffix in (".json", ".jsonl") and numbers.random() < 0.8:
        return json_mutated(text, numbers, lines=suffix == ".jsonl")
    if suffix in TABLES and numbers.random() < 0.7:
        return table_mutated(text, numbers)
    return text_mutated(text, numbers)


def write_mutant(files: Files, folder: Path, numbers: random.Random) -> None:
    """Write a seed's files with one to three mutations."""
    contents: dict[str, bytes | None] = dict(files)
    for _ in range(numbers.choice((1, 1, 2, 3))):
        name = numbers.choice(list(contents))
        data = contents[name]
        if len(contents) > 1 and numbers.random() < 0.2:  # of which files there are
            other = numbers.choice(list(contents))
            kind = numbers.randrange(5)
            if kind == 0:
                del contents[name]
            elif kind == 1:
                contents[name], contents[other] = contents[other], data
            elif kind == 2:
                contents[re.sub(r"(\w+)(\.\w+)$", numbers.choice((r"\1é\2", r"x \1\2", r"\1")), name)] = data
            elif kind == 3:
                contents[name] = None
            else:
                contents[str(Path(name).with_name(numbers.choice(("notes.txt", "x.csv", ".hidden"))))] = b"x"
        elif data is not None:
            contents[name] = mutated(name, data, numbers)
    for name, data in contents.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if data is None:  # a folder where a file should be
            file.mkdir(exist_ok=True)
        elif not file.is_dir():
            file.write_bytes(data)


def not_finite(result: Any, name: str = "result") -> str:
    """Where a result holds NaN, an infinite number or half a character; empty if nowhere."""
    if isinstance(result, float):
        return "" if math.isfinite(result) else f"{name} is {result}"
    if isinstance(result, np.ndarray) and result.dtype.kind == "f":
        return "" if np.isfinite(result).all() else f"{name} is not finite"
    if isinstance(result, torch.Tensor):
        is_float = result.is_floating_point() and not result.is_meta
        return "" if not is_float or bool(result.isfinite().all()) else f"{name} is not finite"
    if isinstance(result, str):
        return f"{name} is no UTF-8" if "\ud800" in result else ""
    if isinstance(result, torch.nn.Module):
        return ""
    items: Any = ()
    if isinstance(result, Mapping):
        items = result.items()
    elif dataclasses.is_dataclass(result):
        items = [(field.name, getattr(result, field.name)) for field in dataclasses.fields(result)]
    elif isinstance(result, list | tuple):
        items = enumerate(result)
    return next((said for key, each in items if (said := not_finite(each, f"{name}.{key}"))), "")


class Hang(BaseException):
    """A reader takes too long."""


def _hang(*_: Any) -> None:
    raise Hang(f"no end after {SECONDS} s")


def outcome(read: Callable[[Path], Any], folder: Path, allows_nan: bool) -> tuple[bool, str, str]:
    """Whether a reader gave a result, what it said, and the fault, if it ended in neither."""
    signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with identity.listen():
            result = read(folder)
    except BadInput as error:
        said = str(error)
        return False, said, "" if len(said.splitlines()) == 1 else f"not one line: {said!r:.300}"
    except (Exception, Hang):  # noqa: BLE001 -- whatever it raises is what is looked for
        return False, "", traceback.format_exc(limit=-3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return True, "", "" if allows_nan else not_finite(result)


def fuzz(
    read: Callable[[Path], Any],
    seeds: Sequence[Files],
    folder: Path,
    *,
    others: Sequence[Files] = (),
    count: int = 200,
    seed: int = 0,
    allows_nan: bool = False,
) -> None:
    """Give a reader its seeds, which it must read, and `count` mutants of them.

    Args:
        read: takes the folder that holds the files.
        others: files to be read or refused, as they are.
        allows_nan: the reader marks by NaN what is missing in a file.
    """
    numbers, faults, results = random.Random(seed), {}, 0
    place, whole = folder / "case", [*others, *seeds]
    for number in range(-len(whole), count):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if number < 0:
            write_seed(whole[number], place)
        else:
            write_mutant(numbers.choice(whole), place, numbers)
        is_read, said, fault = outcome(read, place, allows_nan)
        assert is_read or fault or not -len(seeds) <= number < 0, f"seed {number} is refused: {said}"
        if fault:
            # one of each kind is enough to see
            kind = re.sub(r"0x\w+|\d+", "N", fault.splitlines()[-1])[:80] + "".join(fault.splitlines()[-4:-2])
            faults.setdefault(kind, (number, fault))
            kept = folder / f"fault-{number}"
            shutil.copytree(place, kept, dirs_exist_ok=True)
        results += is_read and number >= 0
    print(f"{results} of {count} read, the others refused")
    for number, fault in faults.values():
        print(f"--- mutant {number}, kept in {folder / f'fault-{number}'}\n{fault}")
    assert not faults, f"{len(faults)} kinds of fault"
    assert 0 < results < count


def write_seed(files: Files, folder: Path) -> None:
    """Write a seed as it is."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
