"""Lines for the user beside the progress bar. It imports torch only once there is something to print."""


def notify(line: str) -> None:
    """A line on the error stream, from one process of several; no generator advances."""
    from torchstone.engine import parallel, rng

    if parallel.rank():
        return
    before = rng.snapshot()  # what the import draws from Python's
    from rich.console import Console

    rng.restore(before)
    Console(stderr=True).print(line, markup=False, soft_wrap=True)
