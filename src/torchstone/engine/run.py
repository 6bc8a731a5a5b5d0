"""`Run`, what the engine executes, and `fit`, the only training loop.

`fit` draws from the stream and applies the update; around that, on a clock, it reads the metrics,
evaluates, and saves. It never looks inside a batch, a model or an optimiser.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from torchstone.engine import checkpoint, generators, parallel
from torchstone.engine.meter import Log, Meter
from torchstone.errors import BadInput, Interrupted, NotFinite, NotSaved

Batch = Any
Metrics = Mapping[str, Tensor | float]


class Stateful(Protocol):
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict, /) -> Any: ...


@dataclass
class Run:
    """Everything one training run is made of; see the table in the design's section 5."""

    stream: Iterator[Batch]  # data, or fresh experience
    update: Callable[[Batch], Metrics]  # the learning rule
    evaluate: Callable[[], Metrics]  # validation, drawn on the clock
    state: dict[str, Stateful]  # all that a checkpoint must hold, stream included
    steps: int
    test: Callable[[], Metrics] | None = None  # the number it is judged by, once, at the end
    report: Callable[[Path], None] | None = None  # draws pictures into a folder
    card: dict = field(default_factory=dict)  # JSON: what use without the data needs
    results: dict[str, float] = field(default_factory=dict)  # filled by fit
    folder: Path | None = None  # filled by fit


@dataclass(frozen=True)
class Clock:
    """When to read metrics, evaluate and save, in steps; `None` is 200 rows and 20 evaluations a run,
    and a checkpoint at each evaluation and whenever `seconds` have passed without one."""

    log: int | None = None
    evaluate: int | None = None
    save: int | None = None
    seconds: float = 60.0

    def of(self, steps: int) -> "Clock":
        log = self.log or math.ceil(steps / 200)
        evaluate = self.evaluate or math.ceil(steps / 20)
        return Clock(log, evaluate, self.save or evaluate, self.seconds)


class _Progress:
    """What `fit` itself must remember: the step, numbers not yet written, the global generators."""

    def __init__(self):
        self.step, self.meter = 0, Meter()

    def state_dict(self) -> dict:
        each = parallel.gather((self.meter.state_dict(), generators.snapshot()))
        return {"step": self.step, "processes": each}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        if parallel.rank() < len(state["processes"]):  # there may have been fewer processes then
            meter, random = state["processes"][parallel.rank()]
            self.meter.load_state_dict(meter)
            generators.restore(random)


def fit(
    run: Run,
    folder: Path | str | None = None,
    *,
    clock: Clock = Clock(),
    meta: Mapping[str, Any] | None = None,
    stage: int = 0,
    offset: int = 0,
    title: str = "training",
    quiet: bool = False,
) -> dict[str, float]:
    """Train `run` to its last step and return what its last evaluation and its test measured.

    With a folder, rows, events and checkpoints are written there, and a checkpoint of this stage
    found there is gone on from: calling `fit` again after a crash is how one resumes.

    Args:
        meta: goes into each checkpoint's `meta.json` (system, card).
        stage, offset: number of this run among several, and the steps of those before it.

    Raises:
        NotFinite: a loss or metric became NaN or infinite; the last good checkpoint stays.
        NotSaved: the disk is full or cannot be written; the last good checkpoint stays.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    progress = _Progress()
    state = {**run.state, "progress": progress}
    run.folder = folder = Path(folder) if folder is not None else None
    clock = clock.of(run.steps)
    writes = folder is not None and parallel.rank() == 0
    if folder is not None:
        run.results.update(_go_on(folder, state, stage, quiet or not writes))
    log = Log(folder, offset + progress.step, offset + run.steps, title, quiet) if writes else None
    saved_at = time.monotonic()

    def save() -> None:
        nonlocal saved_at
        if folder is None:
            return
        progress.meter.check()  # what is not finite is not saved over what was
        entries = {name: _frozen(item) for name, item in state.items()}
        if writes:
            about = {**(meta or {}), "stage": stage, "step": progress.step, "card": run.card}
            about |= {"steps": run.steps, "results": run.results}
            try:
                checkpoint.save(folder / "checkpoint", entries, about)
            except OSError as error:
                raise NotSaved(_unsaved(error, folder, offset + progress.step)) from None
        saved_at = time.monotonic()

    def judge(split: str, measure: Callable[[], Metrics]) -> None:
        before = generators.snapshot()  # looking must not change what is looked at
        numbers = {name: float(value) for name, value in measure().items()}
        generators.restore(before)
        run.results.update({f"{split}/{name}": value for name, value in numbers.items()})
        if log:
            log.write(offset + progress.step, split, numbers)

    try:
        with _Signals() as signals:
            if progress.step == 0:
                judge("val", run.evaluate)
                save()  # from here on there is something to go back to
            while progress.step < run.steps:
                metrics = run.update(next(run.stream))
                progress.step = step = progress.step + 1
                progress.meter.add(step, metrics)
                if log and step % 16 == 0:
                    log.advance(offset + step)
                on_clock = step % clock.log == 0 or step == run.steps
                if on_clock:
                    means = progress.meter.read()
                    if log:
                        log.write(offset + step, "train", means)
                if step % clock.evaluate == 0 or step == run.steps:
                    judge("val", run.evaluate)
                if step == run.steps and run.test is not None:
                    judge("test", run.test)
                # several processes must agree, so they only ask where all of them have arrived
                late, stop = False, 0
                if parallel.world() == 1:
                    late, stop = time.monotonic() - saved_at > clock.seconds, signals.caught
                elif on_clock:
                    mine = (time.monotonic() - saved_at > clock.seconds, signals.caught)
                    late, stop = map(max, zip(*parallel.gather(mine), strict=True))
                if step % clock.save == 0 or step == run.steps or late or stop:
                    save()
                if stop and step < run.steps:
                    where = f"step {offset + step} of {offset + run.steps}"
                    raise Interrupted(f"stopped at {where}, state saved", stop)
    except NotFinite as error:
        raise NotFinite(_explain(error, run, folder, offset + progress.step + 1)) from None
    finally:
        if log:
            log.close()
    return run.results


def _go_on(folder: Path, state: dict, stage: int, quiet: bool) -> dict:
    """Load the checkpoint of this stage, if the folder has one; return the results it had so far."""
    names = ("checkpoint", "checkpoint.new", "checkpoint.previous")
    if not any((folder / name).exists() for name in names):
        return {}
    found, meta, complaints = checkpoint.find(folder / "checkpoint")
    if complaints and not quiet:
        from rich.console import Console

        line = f"{'; '.join(complaints)}: going back to {found.name}, step {meta['step']}"
        Console(stderr=True).print(line, markup=False, soft_wrap=True)
    if meta["stage"] != stage:
        return {}
    checkpoint.load(found, state)
    return meta["results"]


def _frozen(item: Any) -> Any:
    """Every process must take part in a state that is gathered, though only one writes it."""
    return item if isinstance(item, torch.nn.Module) else item.state_dict()


def _explain(error: NotFinite, run: Run, folder: Path | None, step: int) -> str:
    said = str(error)
    parts = [said if "at step" in said else f"step {step}: {said}"]
    diagnosis = getattr(run.update, "diagnosis", None)
    if diagnosis is not None and "learning rate" not in said:
        parts.append(diagnosis())
    if folder is not None:
        found, meta, _ = checkpoint.find(folder / "checkpoint")
        parts.append(f"last good checkpoint: {found} (step {meta['step']})")
    parts.append("the usual cause is too high a learning rate: try a third of it, or --clip 1")
    return "; ".join(parts)


def _unsaved(error: OSError, folder: Path, step: int) -> str:
    line = f"could not save at step {step}: {error.strerror or error}"
    with contextlib.suppress(BadInput):
        found, meta, _ = checkpoint.find(folder / "checkpoint")
        line += f"; the last good checkpoint stays: {found} (step {meta['step']})"
    return f"{line}; make room, then: torchstone resume {folder}"


class _Signals(contextlib.AbstractContextManager):
    """Remembers the first SIGINT or SIGTERM, so that the loop can save and leave; a second one kills."""

    def __init__(self):
        self.caught, self.before = 0, {}

    def __enter__(self):
        with contextlib.suppress(ValueError):  # not in the main thread: leave signals alone
            for each in (signal.SIGINT, signal.SIGTERM):
                self.before[each] = signal.signal(each, self._catch)
        return self

    def _catch(self, number, frame):
        self.caught = number
        self._restore()

    def _restore(self):
        for each, handler in self.before.items():
            signal.signal(each, handler)

    def __exit__(self, *_):
        self._restore()
