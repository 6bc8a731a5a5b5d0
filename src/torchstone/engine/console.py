"""Lines for the user beside the progress bar, and bars for what else takes long.

It imports torch only once there is something to print.
"""

from collections.abc import Iterable
from typing import Any


def notify(line: str) -> None:
    """A line on the error stream, from one process of several; no generator advances."""
    from torchstone.engine import parallel, rng

    if parallel.rank():
        return
    before = rng.snapshot()  # what the import draws from Python's
    from rich.console import Console

    rng.restore(before)
    Console(stderr=True).print(line, markup=False, soft_wrap=True)


def progress_bar(items: Iterable[Any], title: str, total: int | None = None, *, show: bool = True) -> Any:
    """`items`, and on a terminal a bar while they are taken."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    is_quiet = not (show and console.is_terminal)
    return track(items, title, total, console=console, disable=is_quiet, transient=True)
