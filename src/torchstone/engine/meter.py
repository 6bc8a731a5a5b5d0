"""The meter: gathers metrics where they are, reads them at intervals, shows and writes them."""

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from torchstone.engine import parallel
from torchstone.engine.console import Screen, notify, on_terminal
from torchstone.engine.event_file import EventFile
from torchstone.errors import BadInput, NotFinite
from torchstone.files import atomic_write, parse_json


class Meter:
    """Averages each metric over the steps since it was last read; a metric absent at a step is not
    counted there. `add` only appends; the device is read in `read`, once for all.

    Its state (the values not yet read) goes into the checkpoint, so that a resumed run writes the
    same rows as one that was never stopped.
    """

    def __init__(self):
        self.pending: dict[str, list[Tensor | float]] = defaultdict(list)
        self.steps: dict[str, list[int]] = defaultdict(list)

    def add(self, step: int, metrics: Mapping[str, Tensor | float]) -> None:
        for name, value in metrics.items():
            self.pending[name].append(value)
            self.steps[name].append(step)

    def read(self) -> dict[str, float]:
        """Means since the last reading, over all processes; raises `NotFinite` with name and step."""
        values = self.check()
        self.pending.clear()
        self.steps.clear()
        gathered = parallel.gather(values)
        names = sorted({name for each in gathered for name in each})
        joined = {name: [v for each in gathered for v in each.get(name, [])] for name in names}
        return {name: sum(numbers) / len(numbers) for name, numbers in joined.items()}

    def check(self) -> dict[str, list[float]]:
        """The pending numbers, if all are finite; else `NotFinite` with the first step that was not."""
        values = self.values()
        for name, numbers in values.items():
            for step, number in zip(self.steps[name], numbers, strict=True):
                if not math.isfinite(number):
                    raise NotFinite(f"{name} is {number} at step {step}")
        return values

    def values(self) -> dict[str, list[float]]:
        """The pending numbers, copied from the device in one transfer per metric."""
        values = {}
        for name, column in self.pending.items():
            tensors = [v.detach().float() for v in column if isinstance(v, Tensor)]
            read = iter(torch.stack(tensors).tolist() if tensors else [])
            values[name] = [next(read) if isinstance(v, Tensor) else float(v) for v in column]
            self.pending[name] = list(values[name])
        return values

    def state_dict(self) -> dict:
        return {"pending": self.values(), "steps": dict(self.steps)}

    def load_state_dict(self, state: dict) -> None:
        self.pending = defaultdict(list, {k: list(v) for k, v in state["pending"].items()})
        self.steps = defaultdict(list, {k: list(v) for k, v in state["steps"].items()})


class Log:
    """A run's rows on disk (`metrics.jsonl`, TensorBoard events) and its live progress.

    On opening, the first `rows` rows stay, as many as there were at the checkpoint that training continues
    from; the others will be written again.
    """

    def __init__(self, folder: Path, rows: int, step: int, steps: int, title: str, quiet: bool = False):
        self.file = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        earlier = read_rows(self.file)[:rows]
        self.count = len(earlier)
        self.seconds_before = max((row.get("time", 0.0) for row in earlier), default=0.0)
        with atomic_write(self.file) as new:
            new.write_text("".join(json.dumps(row) + "\n" for row in earlier))
        self.rows = self.file.open("a")
        self.board = EventFile(folder, purge_step=step + 1 if step else None)
        self.began, self.last = time.monotonic(), (time.monotonic(), step)
        self.steps, self.quiet = steps, quiet
        self.screen = Screen(title, steps, step) if not quiet and on_terminal() else None
        if self.screen:
            self.screen.start()

    def advance(self, step: int) -> None:
        if self.screen:
            self.screen.update(step)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        row = {"step": step, "split": split, "time": round(self.seconds_before + now - self.began, 3)}
        if split == "train" and step > self.last[1]:
            row["steps_per_second"] = round((step - self.last[1]) / max(now - self.last[0], 1e-9), 2)
            self.last = (now, step)
        row |= metrics
        self.rows.write(json.dumps(row) + "\n")
        self.rows.flush()
        self.count += 1
        for name, value in metrics.items():
            self.board.add_scalar(f"{split}/{name}", value, step)
        self.board.flush()
        shown = [split, *(f"{k} {v:.4g}" for k, v in metrics.items() if "/" not in k)]
        if self.screen:
            self.screen.update(step, shown)
        elif split != "train":
            self.print("  ".join([f"step {step}/{self.steps}", *shown]))

    def print(self, line: str) -> None:
        if not self.quiet:
            notify(line)

    def close(self) -> None:
        if self.screen:
            self.screen.stop()
        with contextlib.suppress(OSError):  # on a full disk the error was reported before
            self.rows.close()
            self.board.close()

    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self.seconds_before + time.monotonic() - self.began


def read_rows(file: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`; a last line cut off by a crash is left out.

    Raises:
        BadInput: it is no file of text.
    """
    try:
        lines = file.read_text().splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read ({error}): restore it, or train anew") from None
    rows = []
    for line in lines:
        try:
            row = parse_json(line)
        except ValueError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows
