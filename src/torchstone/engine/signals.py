"""How a run ends before its time: signals, numbers that are not finite, a full disk."""

import contextlib
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

from torchstone.engine import checkpoint
from torchstone.errors import BadInput, NotFinite, NotSaved

# seconds that a step may still take: whoever typed Ctrl-C waits; a machine announces its end some time before
GRACE = {signal.SIGINT: 0.7, signal.SIGTERM: 5.0}


def explain(error: NotFinite, update: Any, folder: Path | None, step: int) -> str:
    message = str(error)
    parts = [message if "at step" in message else f"step {step}: {message}"]
    diagnosis = getattr(update, "diagnosis", None)
    if diagnosis is not None and "learning rate" not in message:
        parts.append(diagnosis())
    if folder is not None:
        found, meta, _ = checkpoint.find(folder / "checkpoint")
        parts.append(f"last good checkpoint: {found} (step {meta['step']})")
    parts.append("the usual cause is too high a learning rate: try a third of it, or --max-grad-norm 1")
    return "; ".join(parts)


@contextlib.contextmanager
def writing(folder: Path, step: int) -> Generator[None]:
    """What the system refuses to write (a full disk, mostly) becomes `NotSaved`, with what remains."""
    try:
        yield
    except OSError as error:
        line = f"could not write at step {step}: {error.strerror or error}"
        with contextlib.suppress(BadInput):
            found, meta, _ = checkpoint.find(folder / "checkpoint")
            line += f"; the last good checkpoint stays: {found} (step {meta['step']})"
        raise NotSaved(f"{line}; make room, then: torchstone resume {folder}") from error


class Signals(contextlib.AbstractContextManager):
    """Remembers the first SIGINT or SIGTERM, so that the loop can save and leave; a second one kills.

    What is under way, a step or an evaluation, has `GRACE` seconds to come to its end. Then
    `KeyboardInterrupt` is raised in it, and `has_left` says so: training goes on from the last checkpoint.

    Args:
        has_grace: of several processes none may leave alone: there the loop asks where all have arrived.
    """

    def __init__(self, has_grace: bool = True):
        self.has_grace = has_grace and hasattr(signal, "setitimer")
        self.caught, self.before, self.is_held, self.has_left = 0, {}, False, False

    def __enter__(self):
        with contextlib.suppress(ValueError):  # not in the main thread: leave signals alone
            for each in (signal.SIGINT, signal.SIGTERM):
                self.before[each] = signal.signal(each, self._catch)
        return self

    def _catch(self, number, frame):
        self.caught = number
        self._restore()
        if self.has_grace:
            self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._leave)
            # again and again: a bare `except` of somebody else's may swallow the first
            signal.setitimer(signal.ITIMER_REAL, GRACE[number], 1.0)

    def _leave(self, number, frame):
        if not self.is_held:
            self.has_left = True
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """In here nothing is left unfinished: a checkpoint is being saved."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False

    def _restore(self):
        for each, handler in self.before.items():
            signal.signal(each, handler)

    def __exit__(self, *_):
        if signal.SIGALRM in self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._restore()
