"""Agents for experiments: trained by their own systems, with what every update and evaluation measured."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torchstone.engine.run import Intervals, Run, fit
from torchstone.errors import NotFinite


class History(NamedTuple):
    """Of one training.

    Args:
        updates: the metrics of each update; those of reinforcement learning have `env_steps`.
        evaluations: the metrics of each evaluation, that of the untrained agent first; none without them.
        evaluated_after: how many updates there had been at each.
        seconds: of the CPU, for updates and new experience, not for evaluation.
    """

    updates: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    evaluated_after: list[int]
    model: Any
    seconds: float

    def column(self, name: str) -> list[float]:
        """A metric of the updates that have it."""
        return [each[name] for each in self.updates if name in each]

    def returns(self) -> list[float]:
        """The mean return of each evaluation."""
        return [each["return"] for each in self.evaluations]


class Stop(Exception):
    """A training has reached what it was to reach."""


def train_agent(
    build: Callable[[Any], Iterator[Run]],
    recipe: Any,
    *,
    evaluations: int = 0,
    before_update: Callable[[Any, Any], dict[str, float]] | None = None,
    stop_when: Callable[[dict[str, float]], bool] | None = None,
) -> History:
    """Train to the last step, without a test at the end.

    Args:
        evaluations: at even intervals; 0 for none.
        before_update: (network, batch) -> further metrics, of the network that collected the batch.
        stop_when: whether the metrics of an evaluation end the training.
    """
    (run,) = build(recipe)
    updates: list[dict[str, float]] = []
    found: list[dict[str, float]] = []
    after: list[int] = []
    update, evaluate = run.update, run.evaluate
    idle = 0.0  # seconds of evaluation
    model = run.state["model"]

    def recorded(batch: Any) -> Any:
        nonlocal idle
        row: dict[str, float] = {}
        if before_update is not None:
            began = time.process_time()
            row |= before_update(model, batch)
            idle += time.process_time() - began
        metrics = update(batch)
        updates.append(row | {name: float(value) for name, value in metrics.items()})
        return metrics

    def measured() -> dict[str, float]:
        nonlocal idle
        began = time.process_time()
        metrics = {name: float(value) for name, value in evaluate().items()}
        idle += time.process_time() - began
        found.append(metrics)
        after.append(len(updates))
        if stop_when is not None and stop_when(metrics):
            raise Stop
        return metrics

    run.update, run.test, run.best_metric, run.evaluate_all = recorded, None, None, None
    run.evaluate = measured if evaluations else dict
    every = max(1, run.steps // evaluations) if evaluations else run.steps
    began = time.process_time()
    with contextlib.suppress(NotFinite, Stop):  # what was measured until then remains
        fit(run, quiet=True, intervals=Intervals(evaluate=every))
    return History(updates, found, after, model, time.process_time() - began - idle)


def steps_until(history: History, level: float) -> float | None:
    """Environment steps at the first evaluation whose return is at least `level`; None if none is.

    That of the untrained agent counts for nothing.
    """
    for updates, found in zip(history.evaluated_after, history.returns(), strict=True):
        if updates and found >= level:
            return history.updates[updates - 1]["env_steps"]
    return None


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def moving_mean(values: list[float], window: int) -> list[float]:
    """Means of each `window` values in a row; of all, where there are fewer."""
    window = min(window, len(values))
    return [mean(values[i : i + window]) for i in range(len(values) - window + 1)]


def worst_drop(values: list[float]) -> float:
    """The largest fall from a value to a later one; 0 if it never falls."""
    highest, worst = values[0], 0.0
    for value in values:
        highest = max(highest, value)
        worst = max(worst, highest - value)
    return worst
