"""One training of each system's smoke recipe, watched; laws 1, 2, 3, 6 and 10 read what was seen.

`cached` trains in a process of its own, once a session, and leaves

    whole/         the run folder at the end
    cut/           the same folder as it was at the step of the "kill"
    record.json    of each stage: metrics of the first updates, and before and after; what each parameter received
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from shared_cache import made_once
from torch import Tensor, nn

from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, Run, fit

# by how much a metric of a held-out split must rise (fall, if negative) over the untrained network;
# a system that is measured by something else states `MARGIN = (metric, rise)` in its file
MARGIN = ("accuracy", 0.3)

ROWS = 10  # updates of a stage whose metrics are in the record


def smoke(entry: Any, **fields: Any) -> Any:
    return replace_fields(entry.module().RECIPES["smoke"], {"device": "cpu", **fields})


def updates(entry: Any) -> int:
    """Updates of the smoke recipe's first run; some recipes are as long as there are steps in environments."""
    recipe = smoke(entry)
    return recipe.steps if hasattr(recipe, "steps") else next(iter(entry.module().build(recipe))).steps


def margin(entry: Any) -> tuple[str, float]:
    return getattr(entry.module(), "MARGIN", MARGIN)


def parameters(run: Run) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters of every module in a run's state, by name."""
    return [
        (f"{module}.{name}", p)
        for module, item in run.state.items()
        if isinstance(item, nn.Module)
        for name, p in item.named_parameters()
        if p.requires_grad
    ]


class Observer:
    """Watches a run: its metrics before and after, whether evaluating twice gives the same, and which parameters a
    gradient reaches."""

    def __init__(self, run: Run, metric: str):
        self.run, self.metric = run, metric
        self.untrained: dict[str, float] = {}
        self.not_repeated: list[str] = []
        self.rows: list[dict[str, float]] = []
        self.names = [name for name, _ in parameters(run)]
        self.began = {name: p.detach().clone() for name, p in parameters(run)}
        self.reached: set[str] = set()
        self.update, self.evaluate = run.update, run.evaluate
        run.update, run.evaluate = self._update, self._evaluate

    def _update(self, batch: Any) -> Any:
        metrics = self.update(batch)
        if len(self.rows) < ROWS:
            self.rows.append(floats(metrics))
        for name, p in parameters(self.run):
            if name not in self.reached and p.grad is not None and bool(p.grad.any()):
                self.reached.add(name)
        return metrics

    def _evaluate(self) -> dict[str, float]:
        found = floats(self.evaluate())
        if not self.untrained:
            self.untrained = {f"val/{name}": value for name, value in found.items()}
            again = floats(self.evaluate())
            self.not_repeated = [
                f"{name} is {value} and then {again[name]}"
                for name, value in found.items()
                if again[name] != value
            ]
            # some are measured by what the test split alone has
            if self.metric not in found and self.run.test is not None:
                test = floats(self.run.test())
                self.untrained |= {f"test/{name}": value for name, value in test.items()}
        return found

    def record(self) -> dict[str, Any]:
        """Of a module that no gradient reaches (a rule of its own, an average), each parameter must change."""
        ended: dict[str, Tensor] = dict(parameters(self.run))
        module = {name: name.split(".", 1)[0] for name in self.names}
        own_rule = set(module.values()) - {module[name] for name in self.reached}

        def is_idle(name: str) -> bool:
            if module[name] in own_rule:
                return torch.equal(self.began[name], ended[name])
            return name not in self.reached

        return {
            "steps": self.run.steps,
            "untrained": self.untrained,
            "trained": dict(self.run.results),
            "not_repeated": self.not_repeated,
            "rows": self.rows,
            "parameters": len(self.names),
            "reached": len(self.reached),
            "idle": [name for name in self.names if is_idle(name)],
        }


def floats(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def observe_build(entry: Any, observers: list[Observer]) -> Callable[[Any], Iterator[Run]]:
    """The system's `build`, each of whose runs is watched by one more of `observers`."""
    build, metric = entry.module().build, margin(entry)[0]

    def observed(recipe: Any) -> Iterator[Run]:
        for run in build(recipe):
            observers.append(Observer(run, metric))
            yield run

    return observed


def observe(entry: Any) -> dict[str, Any]:
    """Train the smoke recipe in this process, without a folder."""
    observers: list[Observer] = []
    for run in observe_build(entry, observers)(smoke(entry)):
        fit(run, intervals=Intervals(evaluate=run.steps), quiet=True)
    assert observers, f"{entry.name} builds nothing"
    return {"stages": [observer.record() for observer in observers]}


def cut_at(name: str, steps: int) -> tuple[int, int]:
    """Between which steps checkpoints are saved, and the step in the last third at which a run is cut off: what
    is to be done again is short, and the state is one of many updates."""
    draw = random.Random(name)
    every = draw.randint(2, max(2, steps // 3))
    first = max(every + 1, 2 * steps // 3)
    return every, draw.choice([k for k in range(first, steps) if k % every] or [every + 1])


def cached(entry: Any, shared: Path) -> Path:
    """The folder of an entry's smoke training; see the top of this file."""
    from laws import run_child

    def make(folder: Path) -> None:
        steps = updates(entry)
        every, kill = cut_at(entry.name, steps)
        done = run_child("observed", "-", folder, kill, entry.name, *words(steps, every))
        assert done.returncode == 0, f"{entry.name} could not be trained: {done.stderr[-3000:]}"

    return made_once(shared / f"smoke-{entry.name}", make)


def words(steps: int, every: int) -> list[object]:
    """What the command line is told: checkpoints now and then, evaluation at both ends."""
    return ["--save-every", every, "--eval-every", steps, "--device", "cpu"]


def read_record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())
