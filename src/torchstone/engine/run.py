"""`Run`, what the engine executes, and `fit`, the only training loop.

`fit` takes a batch from the stream and applies the update; at intervals it reads the metrics, evaluates, and
saves. It never looks inside a batch, a model or an optimizer.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from torchstone.engine import checkpoint, parallel, rng
from torchstone.engine.best import BestWeights
from torchstone.engine.console import activity, notify
from torchstone.engine.meter import Log, Meter
from torchstone.engine.signals import Signals, explain, writing
from torchstone.errors import Interrupted, NotFinite

ROWS, EVALUATIONS = 200, 20  # of a run, by default
EVALUATION_SHARE = 0.1  # of the work, by default
FORWARDS = 3  # forward passes that a training example costs: a gradient is two
# those that a generated token costs: its step is one by itself, and untrained networks write to their limit
GENERATED = 4

Batch = Any
Metrics = Mapping[str, Tensor | float]


@runtime_checkable
class Stateful(Protocol):
    """What a run's state consists of. An item may also have `attach(folder)`, which `fit` calls before it
    loads a checkpoint: then it may save what is too large for a checkpoint in the run folder itself. It may
    have `on_validation(metrics, metric)`, which `fit` calls after an evaluation, with the metric by which the
    best weights are kept."""

    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict, /) -> Any: ...


class Examples(NamedTuple):
    """How many examples there are, for epochs and for what evaluation costs.

    Work is reckoned in forward passes of an example of training.
    """

    batch: int  # of an update
    train: int | None  # of an epoch; None where they are generated without end, or by an agent
    val: int | None = None  # of an evaluation; None where it has no validation split
    unit: str = "examples"
    evaluation: float | None = None  # work of an evaluation; None for a forward pass of each of `val`
    update: float | None = None  # work of an update; None for `FORWARDS` of each of `batch`
    is_at_most: bool = False  # `val` is the most that an evaluation can take: episodes may end sooner

    def epochs(self, steps: int) -> float | None:
        return None if self.train is None else steps * self.batch / self.train

    def steps(self, epochs: float) -> int | None:
        """Updates that take `epochs`, rounded up; None where there are none."""
        if self.train is None:
            return None
        return max(1, math.ceil(epochs * self.train / self.batch - 1e-9))

    def work(self, steps: int) -> tuple[float, float]:
        """That of so many updates, and of an evaluation: 0 where it has none."""
        update = self.batch * FORWARDS if self.update is None else self.update
        return steps * update, (self.val or 0) if self.evaluation is None else self.evaluation


@dataclass
class Run:
    """Everything one training run is made of; see the table in the design's section 5."""

    stream: Iterator[Batch]  # data, or fresh experience
    update: Callable[[Batch], Metrics]  # the learning rule
    evaluate: Callable[[], Metrics]  # validation, at intervals
    state: dict[str, Stateful]  # all that a checkpoint must hold, stream included
    steps: int
    test: Callable[[], Metrics] | None = None  # the final measure, once, at the end
    report: Callable[[Path], None] | None = None  # writes pictures into a folder
    evaluate_all: Callable[[], Metrics] | None = None  # `evaluate` on all of validation, once, at the end
    examples: Examples | None = None  # how many there are, if that is known
    best_metric: str | None = None  # of `evaluate`, by which the best weights are kept; none keeps the last
    metadata: dict = field(default_factory=dict)  # JSON: what inference needs without the data
    calibration: dict = field(default_factory=dict)  # metadata that `evaluate` measures; saved with it
    on_evaluate: list[Callable[[], None]] = field(default_factory=list)  # called after each evaluation
    results: dict[str, float] = field(default_factory=dict)  # filled by fit
    folder: Path | None = None  # filled by fit
    predict: Callable[..., list] | None = None  # filled by `train`: inputs -> predictions, see `ts.predict`
    step: int = 0  # filled by fit: fewer than `steps` where it stopped early
    best: BestWeights | None = None  # filled by fit

    def best_weights(self) -> contextlib.AbstractContextManager[None]:
        """Within, the networks have the best weights by validation, not the last."""
        return contextlib.nullcontext() if self.best is None else self.best.loaded(self.step)


@dataclass(frozen=True)
class Intervals:
    """When to read metrics, evaluate and save, in steps. A checkpoint is also due whenever `seconds` have
    passed without one, and at the end.

    `None` is 200 rows per run, and as many evaluations as take a tenth of its work, at most 20, at least one
    at the end. The work is reckoned in examples, never by the clock, so that a resumed run evaluates at the
    same steps: one that is evaluated costs a third of one that is trained on, whose gradient costs two more;
    what an evaluation generates, and what it reads several times, is in the run's `Examples`.

    The weights that are best by `best_metric` (the run's own, unless given) are kept. After `patience`
    evaluations without a better one training stops.
    """

    log: int | None = None
    evaluate: int | None = None
    save: int | None = None
    seconds: float = 30.0
    best_metric: str | None = None
    patience: int | None = None
    evaluation_share: float = EVALUATION_SHARE  # of the work; infinite for 20 evaluations whatever they cost

    def resolve(self, steps: int, examples: Examples | None = None) -> "_Due":
        log = self.log or math.ceil(steps / ROWS)
        count = EVALUATIONS
        work, evaluation = (0.0, 0.0) if examples is None else examples.work(steps)
        if evaluation:
            count = max(1, int(min(EVALUATIONS, self.evaluation_share * work / evaluation)))
        evaluate = self.evaluate or math.ceil(steps / count)
        # where there is work for one only, it is the last, not that of the untrained network
        first = self.evaluate is not None or count > 1
        share = (math.ceil(steps / evaluate) + first) * evaluation / work if work else 0.0
        return _Due(log, evaluate, self.save or steps, first, share)


class _Due(NamedTuple):
    log: int
    evaluate: int
    save: int
    first: bool = True  # evaluate before the first step too
    share: float = 0.0  # of the evaluations in the work of the updates; 0 where it is not known


class _Progress:
    """The state of `fit` itself: the step, metrics not yet written, the global generators."""

    def __init__(self):
        self.step, self.meter = 0, Meter()

    def state_dict(self) -> dict:
        each = parallel.gather((self.meter.state_dict(), rng.snapshot()))
        return {"step": self.step, "processes": each}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        if parallel.rank() < len(state["processes"]):  # there may have been fewer processes then
            meter, random = state["processes"][parallel.rank()]
            self.meter.load_state_dict(meter)
            rng.restore(random)


def fit(
    run: Run,
    folder: Path | str | None = None,
    *,
    intervals: Intervals = Intervals(),
    meta: Mapping[str, Any] | None = None,
    stage: int = 0,
    offset: int = 0,
    title: str = "training",
    quiet: bool = False,
) -> dict[str, float]:
    """Train `run` to its last step and return what its best evaluation (without a metric to know it by,
    its last) and its test measured. The test is of the same weights; the run ends with the last ones.

    With a folder, rows, events and checkpoints are written there, and training continues from a checkpoint of
    this stage found there: calling `fit` again after a crash is how one resumes.

    Args:
        meta: goes into each checkpoint's `meta.json` (system, recipe).
        stage, offset: number of this run among several, and the steps of those before it.

    Raises:
        NotFinite: a loss or metric became NaN or infinite; the last good checkpoint stays.
        NotSaved: the disk is full or cannot be written; the last good checkpoint stays.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    progress = _Progress()
    # what inference reads of a checkpoint
    modules: Any = {name: run.state[name] for name in ("model", "ema") if name in run.state}
    run.best = best = BestWeights(intervals.best_metric or run.best_metric, intervals.patience, modules)
    state = {**run.state, "progress": progress}
    run.folder = folder = Path(folder) if folder is not None else None
    every = intervals.resolve(run.steps, run.examples)
    writes = folder is not None and parallel.rank() == 0
    for item in run.state.values():
        attach = getattr(item, "attach", None)
        if attach is not None:
            attach(folder)
    if folder is not None:
        rows = _resume(folder, run, state, stage, quiet or not writes)
    log = None
    if writes:
        before = rng.snapshot()  # what it imports draws from Python's
        log = Log(folder, rows, offset + progress.step, offset + run.steps, title, quiet)
        rng.restore(before)
    saved_at, saved_step = time.monotonic(), progress.step

    def save() -> None:
        nonlocal saved_at, saved_step
        if folder is None:
            return
        progress.meter.check()  # what is not finite is not saved over what was
        for name, item in run.state.items():
            _check_weights(name, item)
        entries = {name: _state_of(item) for name, item in state.items()}
        if log:
            about = {**(meta or {}), "stage": stage, "step": progress.step}
            about |= {"metadata": run.metadata | run.calibration, "calibration": run.calibration}
            about |= {"steps": run.steps, "results": run.results, "rows": log.count}
            about |= {"best": best.about(), "is_done": best.is_exhausted or progress.step == run.steps}
            with writing(folder, offset + progress.step):
                checkpoint.save(folder / "checkpoint", entries, about, best.tensors(progress.step))
        saved_at, saved_step = time.monotonic(), progress.step

    def stopped(number: int) -> Interrupted:
        where = f"stopped at step {offset + progress.step} of {offset + run.steps}"
        if saved_step == progress.step:
            return Interrupted(f"{where}, state saved", number)
        return Interrupted(f"{where}; the last checkpoint is of step {offset + saved_step}", number)

    def compute(split: str, function: Callable[[], Metrics]) -> dict[str, float]:
        before = rng.snapshot()  # evaluation must not change training
        label = "evaluating" if split == "val" else "testing"
        with activity(label, quiet=quiet or not writes, announce=split == "test"):
            numbers = {name: float(value) for name, value in function().items()}
        rng.restore(before)
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise NotFinite(f"{split}/{name} is {number} at step {progress.step}")
        return numbers

    def keep_results(split: str, numbers: Mapping[str, float]) -> None:
        run.results.update({f"{split}/{name}": value for name, value in numbers.items()})

    def validate() -> bool:
        """Evaluate, keep the weights if they are best; whether this was the last time."""

        def with_hooks() -> Metrics:
            metrics = run.evaluate()
            for hook in run.on_evaluate:
                hook()
            return metrics

        numbers = compute("val", with_hooks)
        best.consider(progress.step, numbers, run.calibration)
        if best.metric is not None:
            alike = parallel.gather(dict(numbers))[0]  # all processes decide alike
            for item in run.state.values():
                follow = getattr(item, "on_validation", None)
                if follow is not None:
                    follow(alike, best.metric)
        keep_results("val", best.metrics or numbers)
        is_last = progress.step == run.steps or best.is_exhausted
        if is_last and run.evaluate_all is not None:
            with best.loaded(progress.step):
                numbers = compute("val", run.evaluate_all)
            keep_results("val", numbers)
        write_row("val", numbers)
        return is_last

    def test() -> None:
        if run.test is not None:
            with best.loaded(progress.step):
                numbers = compute("test", run.test)
            keep_results("test", numbers)
            write_row("test", numbers)

    def write_row(split: str, numbers: Mapping[str, float]) -> None:
        if log:
            with writing(log.file.parent, offset + progress.step):
                log.write(offset + progress.step, split, numbers)

    signals = Signals(has_grace=parallel.world_size() == 1)
    try:
        with signals:
            if progress.step == 0:
                with signals.held():
                    save()  # from here on there is something to go back to
                if every.first:
                    validate()
            while progress.step < run.steps and not best.is_exhausted:
                metrics = run.update(next(run.stream))
                progress.step = step = progress.step + 1
                progress.meter.add(step, metrics)
                if log and step % 16 == 0:
                    log.advance(offset + step)
                is_due = step % every.log == 0 or step == run.steps
                if is_due:
                    write_row("train", progress.meter.read())
                is_last = False
                if step % every.evaluate == 0 or step == run.steps:
                    is_last = validate()
                if is_last:
                    if not is_due:
                        write_row("train", progress.meter.read())
                    test()
                # several processes must agree, so they only ask where all of them have arrived
                late, stop = False, 0
                if parallel.world_size() == 1:
                    late, stop = time.monotonic() - saved_at > intervals.seconds, signals.caught
                elif is_due:
                    mine = (time.monotonic() - saved_at > intervals.seconds, signals.caught)
                    late, stop = map(max, zip(*parallel.gather(mine), strict=True))
                if step % every.save == 0 or is_last or late or stop:
                    with signals.held():
                        save()
                if stop or (is_last and signals.caught):  # or while the last was saved
                    raise stopped(stop or signals.caught)
    except NotFinite as error:
        raise NotFinite(explain(error, run.update, folder, offset + progress.step + 1)) from None
    except KeyboardInterrupt:
        if signals.has_left:
            raise stopped(signals.caught) from None
        raise
    finally:
        run.step = progress.step
        if log:
            log.close()
    return run.results


def skip_finished_stage(run: Run, saved: Path) -> None:
    """Load a finished stage's checkpoint, with the global generators as they stood at its end, so that
    `build` draws the same numbers before the next stage as it did then."""
    checkpoint.load(saved, {**run.state, "progress": _Progress()})


def _resume(folder: Path, run: Run, state: dict, stage: int, quiet: bool) -> int:
    """Load the checkpoint of this stage into `run` and `state`, if the folder has one, with the results,
    the calibration and the best weights by then; return how many rows had been written."""
    if not checkpoint.any_at(folder / "checkpoint"):
        return 0
    found, meta, complaints = checkpoint.find(folder / "checkpoint")
    if complaints and not quiet:
        notify(f"{'; '.join(complaints)}: going back to {found.name}, step {meta['step']}")
    if meta["stage"] == stage:
        checkpoint.load(found, state)
        run.results.update(meta["results"])
        run.calibration.update(meta.get("calibration", {}))
        assert run.best is not None
        run.best.restore(meta.get("best"), checkpoint.best_tensors(found))
        if meta.get("steps", run.steps) < run.steps:  # it goes on for longer than it was to
            run.best.stale = 0
    return meta["rows"]


def _check_weights(name: str, item: Any) -> None:
    """A finite loss can leave weights that are not: its gradient was infinite."""
    if isinstance(item, torch.nn.Module):
        for key, weight in item.named_parameters():
            if not torch.isfinite(weight).all():
                raise NotFinite(f"{name}.{key} is not finite")


def _state_of(item: Any) -> Any:
    """Every process must take part in a state that is gathered, though only one writes it."""
    return item if isinstance(item, torch.nn.Module) else item.state_dict()
