"""The errors that a person sees. Each message is one line: what is wrong, and what would be right."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """What was asked for cannot be done as asked; the command line prints the line and exits 2."""

    def __init__(self, message: str):
        # names and cells that it quotes come out of files, and may hold line breaks
        super().__init__(" ".join(message.splitlines()))


class NotFinite(ArithmeticError):
    """A loss or metric became NaN or infinite. The last good checkpoint still stands."""


class NotSaved(OSError):
    """A checkpoint could not be written. The last good one still stands."""


class Interrupted(Exception):
    """A signal ended the run, which can be resumed; `signal` is its number."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


def first_line(error: BaseException) -> str:
    """What an error of another library says first, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """`did you mean a or b?`, or where nothing comes near the whole list: `listed`, if all are too many."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known if listed is None else listed)}"
