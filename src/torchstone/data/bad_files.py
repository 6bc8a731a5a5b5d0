"""Files that cannot be used: all listed at once, or left out where the data are named `skip-bad:SPEC`."""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

from torchstone.errors import BadInput
from torchstone.files import SKIP

# what zipfile raises on a damaged archive, and on a member that it cannot unpack
DAMAGED_ZIP = (
    *(zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, LookupError, struct.error),
    *(zlib.error, lzma.LZMAError),
)
MAX_LISTED = 20  # files in a message


def split_skip(spec: str) -> tuple[str, bool]:
    """A data specification without `skip-bad:`, and whether it had it."""
    return spec.removeprefix(SKIP), spec.startswith(SKIP)


def read_good(
    read: Callable[[Any], Any], items: Sequence[Any], *, skip: bool, threads: int = 1
) -> tuple[list[Any], list[int], str]:
    """What `read` gives for each item that can be read, the indices of these items, and a note for the data
    set's description that lists the others.

    Raises:
        BadInput: not `skip`, and an item cannot be read: all such are listed; or none can.
    """

    def attempt(item: Any) -> tuple[Any, str]:
        try:
            return read(item), ""
        except BadInput as error:
            return None, str(error)

    if threads > 1:
        with ThreadPool(threads) as pool:
            results = pool.map(attempt, items)
    else:
        results = [attempt(item) for item in items]
    good = [i for i, (_, error) in enumerate(results) if not error]
    errors = [error for _, error in results if error]
    if errors and (not skip or not good):
        raise BadInput(describe(errors, len(items)))
    note = f", {len(errors)} left out: {listed(errors)}" if errors else ""
    return [results[i][0] for i in good], good, note


def describe(errors: Sequence[str], count: int) -> str:
    """The message about all bad ones of `count` files or rows; of a single one its own."""
    if len(errors) == 1:
        return errors[0]
    return f"{len(errors)} of {count} cannot be used (--skip-bad trains on the others): {listed(errors)}"


def listed(errors: Sequence[str]) -> str:
    more = f"; and {len(errors) - MAX_LISTED} more" if len(errors) > MAX_LISTED else ""
    return "; ".join(errors[:MAX_LISTED]) + more
