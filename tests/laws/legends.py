"""Law 15: every metric that a smoke run writes has a legend, and one name in training, testing and `eval`."""

import json
from pathlib import Path

from torchstone import api
from torchstone.engine.meter import read_rows
from torchstone.parts.metrics.legend import legend
from torchstone.systems.metric_names import is_known

NO_METRICS = ("step", "split", "time")
# what `eval` says of its data
COUNTS = (
    "windows",
    "images",
    "pictures",
    "rows",
    "tokens",
    "characters",
    "samples",
    "pairs",
    "texts",
    "labels",
)
COUNTS += (
    "questions",
    "spans",
    "utterances",
    "recordings",
    "problems",
    "time_steps",
    "classes",
    "bleu_tokenizer",
)

SAMPLED = ("ddpm",)  # `eval` draws more samples than the test of the smoke recipe


def complete(entry, smoke_run: Path) -> None:
    rows = read_rows(smoke_run / "whole" / "metrics.jsonl")
    names = sorted({name for row in rows for name in row if name not in NO_METRICS})
    print(f"{entry.name}: {', '.join(names)}")
    bare = [name for name in names if legend(name, entry.name) is None]
    assert not bare, f"{entry.name}: {bare} have no legend: add them to parts/metrics/legend.py"
    missing = [name for name in names if not is_known(entry.name, name)]
    assert not missing, f"{entry.name}: add {missing} to METRICS in systems/metric_names.py"


def same_numbers(entry, smoke_run: Path) -> None:
    """`eval` of a smoke run gives what its test gave, by the same names."""
    tested = json.loads((smoke_run / "whole" / "result.json").read_text())["metrics"]
    found = api.evaluate(smoke_run / "whole", device="cpu")
    shared = {
        name: (value, tested.get(f"test/{name}")) for name, value in found.items() if name not in COUNTS
    }
    print(f"{entry.name}: {shared}")
    # of other samples, and more of them
    is_sampled = "samples" in found and entry.name in SAMPLED
    other = [] if is_sampled else [name for name, (value, test) in shared.items() if not is_same(value, test)]
    assert not other, f"{entry.name}: eval and test differ: { {name: shared[name] for name in other} }"
    bare = [name for name in shared if legend(name, entry.name) is None or not is_known(entry.name, name)]
    assert not bare, f"{entry.name}: {bare} of eval have no legend"


def is_same(value: float, test: float | None) -> bool:
    return test is None or abs(value - test) <= 1e-4 * abs(test)
