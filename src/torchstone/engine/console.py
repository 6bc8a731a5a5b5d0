"""What a training says while it runs: lines, a progress bar, and what goes on beside the steps.

On a terminal there is one live display of at most two lines, which fits any width: the bar, and below it the
newest metrics or the present activity. Into a pipe or file only whole lines are written, none of them
broken. It imports rich only for a terminal.
"""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
SILENCE = 15.0  # seconds after which a loop that goes on says so, where there is no live display
NARROWEST = 8  # columns of a bar; where there is no room for it, figures are left out

_screen: "Screen | None" = None  # the live display, where there is one
_activities: list["Activity"] = []  # what goes on, outermost first


def notify(line: str) -> None:
    """A line on the error stream, from one process of several; no generator advances."""
    from torchstone.engine import parallel

    if not parallel.rank():
        _write(line)


def write_line(line: str) -> None:
    """A line on the error stream. Where nobody reads it any more (`2>&1 | head`), the work goes on."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def on_terminal() -> bool:
    """Whether the error stream is one."""
    return sys.stderr is not None and sys.stderr.isatty()


def discard(stream: TextIO) -> None:
    """Let what is still written to a broken stream disappear, at Python's end too."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _write(line: str) -> None:
    if _screen is not None:
        _screen.print(line)
    else:
        write_line(line)


class Activity:
    """Something that takes time, with a count where one is known."""

    def __init__(self, label: str, total: int | None, is_quiet: bool):
        self.label, self.total, self.done, self.is_quiet = label, total, 0, is_quiet
        self.began = self.spoke = time.monotonic()

    def update(self, done: int) -> None:
        """So many of `total` are done."""
        self.done = done
        if self.is_quiet or _screen is not None:
            return
        now = time.monotonic()
        if now - self.spoke > SILENCE:
            self.spoke = now
            _write(describe_activities())

    def text(self) -> str:
        return self.label if self.total is None else f"{self.label} {self.done}/{self.total}"


def describe_activities() -> str:
    """What goes on in one line: `testing: episodes 3/20, 0:12`."""
    words = ": ".join(each.text() for each in _activities)
    return f"{words}, {clock(time.monotonic() - _activities[0].began)}"


@contextlib.contextmanager
def activity(label: str, *, quiet: bool = False, announce: bool = False) -> Generator[None]:
    """Say that something beside the steps goes on, such as drawing. It shows on the live display, or on one
    of its own; where there is no terminal, with `announce`, as a line."""
    with _begin(label, None, quiet, announce):
        yield


@contextlib.contextmanager
def progress(label: str, total: int) -> Generator[Activity]:
    """Show how far a loop is, part of the present activity if there is one: `update` with the number done.
    Where there is no live display, a line is written only once it has taken long."""
    with _begin(label, total, False, False) as begun:
        yield begun


def track(items: Iterable[T], label: str, total: int) -> Generator[T]:
    """`items` one by one, with `progress` over them."""
    with progress(label, total) as begun:
        for done, item in enumerate(items, 1):
            yield item
            begun.update(done)


@contextlib.contextmanager
def _begin(label: str, total: int | None, quiet: bool, is_announced: bool) -> Generator[Activity]:
    from torchstone.engine import parallel

    is_quiet = quiet or bool(parallel.rank()) or any(each.is_quiet for each in _activities)
    begun = Activity(label, total, is_quiet)
    _activities.append(begun)
    own = None
    try:
        if not is_quiet and _screen is None:
            if on_terminal():
                own = Screen("", 0, 0, transient=True)
                own.start()
            elif is_announced:
                _write(label)
        yield begun
    finally:
        if own is not None:
            own.stop()
        _activities.remove(begun)


class Screen:
    """The live display of a terminal: a bar over `total` steps, if there are any, and a line below it."""

    def __init__(self, title: str, total: int, step: int, *, transient: bool = False, console: Any = None):
        from torchstone.engine import rng

        before = rng.snapshot()  # what the import draws from Python's
        from rich.console import Console
        from rich.live import Live

        rng.restore(before)
        self.title, self.total, self.step, self.metrics = title, total, step, [""]
        self.times = deque([(time.monotonic(), step)], maxlen=64)
        self.console = console or Console(stderr=True, highlight=False)
        self.live = Live(
            get_renderable=self.render, console=self.console, refresh_per_second=6, transient=transient
        )

    def start(self) -> None:
        global _screen
        self.live.start()
        _screen = self

    def stop(self) -> None:
        global _screen
        _screen = None
        self.live.stop()

    def print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False)

    def update(self, step: int, metrics: list[str] | None = None) -> None:
        """The step reached, and words to show below the bar."""
        now = time.monotonic()
        if now - self.times[-1][0] > 0.5:
            self.times.append((now, step))
        self.step = step
        self.metrics = self.metrics if metrics is None else metrics

    def render(self) -> Any:
        from rich.text import Text

        width = max(self.console.width - 1, 10)
        lines = [self.bar(width)] if self.total else []
        shown = self.metrics
        if spoken := [each for each in _activities if not each.is_quiet]:
            shown = [describe_activities()] if spoken == _activities else [spoken[-1].text()]
        lines.append(fit_words(shown, width))
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    def bar(self, width: int) -> str:
        """Title, bar and figures in one line of at most `width` columns."""
        (began, first), now = self.times[0], time.monotonic()
        rate = (self.step - first) / max(now - began, 1e-9)
        figures = [f"{self.step / self.total:.0%}", f"{self.step:,}/{self.total:,}"]
        if rate > 0:
            speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            figures += [f"{clock((self.total - self.step) / rate)} left", f"{speed} step/s"]
        title = self.title if len(self.title) <= width // 3 else self.title[: width // 3 - 1] + "…"
        while len(figures) > 1 and len(title) + len("  ".join(figures)) + 4 + NARROWEST > width:
            figures.pop()
        text = "  ".join(figures)
        length = max(width - len(title) - len(text) - 4, 1)
        filled = round(length * self.step / self.total)
        return f"{title}  {'━' * filled}{'─' * (length - filled)}  {text}"[:width]


def fit_words(words: list[str], width: int) -> str:
    """As many words as fit into `width` columns, two spaces between, `…` for the rest."""
    line = ""
    for index, word in enumerate(words):
        longer = f"{line}  {word}" if index else word
        if len(longer) > width - (2 if index < len(words) - 1 else 0):
            return f"{line} …" if line else word[: width - 1] + "…"
        line = longer
    return line


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `3:05:00`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
