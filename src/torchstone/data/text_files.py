"""Text out of files and tables: UTF-8 without its byte-order mark, rows of CSV, cells that may be missing."""

import contextlib
import csv
import io
import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from torchstone.errors import BadInput

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
MISSING_TEXTS = frozenset(("", "nan", "<na>", "nat", "null", "#n/a"))  # what programs write for no text


@contextlib.contextmanager
def report_not_utf8(name: str) -> Generator[None, None, None]:
    """Turn what a table raises whose cells are not UTF-8, as they are decoded, into a `BadInput`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} holds text that is not UTF-8 ({error.reason}): convert it") from None


def read_utf8(path: Path) -> str:
    """A file's text, without a byte-order mark and with \\n as line ends.

    Raises:
        BadInput: there is no such file, it cannot be read, or it is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def allow_long_cells() -> None:
    """Let `csv` read cells of any length, in all of the process; by default they have 131,072 characters."""
    csv.field_size_limit(2**31 - 1)


def read_rows(text: str, name: str, delimiter: str, *, quoted: bool = True) -> list[list[str]]:
    """The rows of a table that are not empty; cells may be of any length.

    Raises:
        BadInput: it is no table; the message begins with `name`.
    """
    allow_long_cells()
    quotes = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quotes)
    try:
        return [row for row in lines if row]
    except csv.Error as error:
        raise BadInput(f"{name} is not a table of text: {error}") from None


def find_delimiter(text: str, name: str, is_header: Callable[[list[str]], bool]) -> str:
    """What separates the cells of a CSV file: what makes a header of its first row, else a comma, unless
    only another makes columns of all rows.

    Raises:
        BadInput: several make columns, and no header decides; the message begins with `name`.
    """
    tables = {delimiter: read_rows(text, name, delimiter) for delimiter in DELIMITERS}
    tables = {delimiter: rows for delimiter, rows in tables.items() if rows and len(rows[0]) > 1}
    if named := [delimiter for delimiter, rows in tables.items() if is_header(rows[0])]:
        return named[0]
    even = [each for each, rows in tables.items() if all(len(row) == len(rows[0]) for row in rows)]
    if len(even) > 1:
        both = " and by ".join(DELIMITERS[each] for each in even)
        raise BadInput(f"{name} has columns separated by {both}: name them in a first row, which decides")
    return even[0] if even else ","


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, or the NaN by which tables of numbers say so."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def optional_text(value: Any, name: str) -> str | None:
    """A cell as text; None where it is missing, for `str` would make a word of that.

    Raises:
        BadInput: it is no text and no number; the message begins with `name`.
    """
    if is_missing(value):
        return None
    if not isinstance(value, str | int | float):
        raise BadInput(f"{name} holds a {type(value).__name__}, not a text: name a column of texts")
    return str(value)


def read_class_names(folder: Path, most: int = 2**31) -> tuple[str, ...]:
    """The classes that `classes.txt` in a folder names, one a line; none if there is no such file.

    Raises:
        BadInput: a class is named twice, or there are more than `most`.
    """
    file = folder / "classes.txt"
    if not file.is_file():
        return ()
    names = [name for line in read_utf8(file).split("\n") if (name := line.strip())]
    if len(set(names)) < len(names) or len(names) > most:
        raise BadInput(f"{file} must name each class once, at most {most}: write one per line")
    return tuple(names)
