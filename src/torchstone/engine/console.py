"""Lines for the user beside the progress bar."""

from torchstone.engine import parallel, rng


def notify(line: str) -> None:
    """A line on the error stream, from one process of several; it draws from no generator."""
    if parallel.rank():
        return
    before = rng.snapshot()  # what the import draws from Python's
    from rich.console import Console

    rng.restore(before)
    Console(stderr=True).print(line, markup=False, soft_wrap=True)
