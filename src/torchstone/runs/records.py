"""Measured results that can be measured again: one JSON file a recipe, in `records/`."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torchstone.parts.metrics.legend import legend

_HERE = Path(__file__).resolve().parent
# in a checkout beside the source; in an installed package within it
FOLDER = next((f for f in (_HERE.parents[2] / "records", _HERE.parent / "records") if f.is_dir()), _HERE)
CURVES = FOLDER.parent / "docs" / "images" / "curves"  # of validation, as measured
# what a record says of where it was measured
ENVIRONMENT_FIELDS = (
    "python",
    "versions",
    "commit",
    "platform",
    "processor",
    "cores",
    "threads",
    "gpu",
    "started",
)


@dataclass(frozen=True)
class Record:
    """What a recipe reached, and what it takes to check that."""

    system: str
    recipe: str
    command: str
    data: str
    metric: str
    target: float | None
    seeds: list[int]
    values: list[float]
    seconds: list[float]
    parameters: int | None
    environment: dict
    baselines: dict[str, float] = field(default_factory=dict)  # means over seeds
    core_seconds: list[float] = field(default_factory=list)  # of one core, on a machine that was busy

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; one alone has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def figure(self) -> str:
        """The mean over seeds, and its spread where there are several."""
        if self.spread is None:
            return f"{self.mean:.4f} (1 seed)"
        return f"{self.mean:.4f} ± {self.spread:.4f} ({len(self.seeds)} seeds)"

    @property
    def falls(self) -> bool:
        """Whether less is better."""
        meaning = legend(self.metric, self.system)
        return meaning is not None and meaning.better == "lower"

    def aim(self) -> str:
        """The target, if there is one, and which side of it is good."""
        return "" if self.target is None else f"{'≤' if self.falls else '≥'} {self.target:g}"

    def reached(self) -> str:
        """Mean and spread over seeds, and the baselines."""
        others = [f"{name.removeprefix('test/')} {value:.3g}" for name, value in self.baselines.items()]
        return self.figure() + (f"; {', '.join(others)}" if others else "")

    def cost(self) -> str:
        """Seconds of one core, if they were counted, else of the clock."""
        if self.core_seconds:
            return f"{statistics.median(self.core_seconds):.0f} s of a core"
        return f"{statistics.median(self.seconds):.0f} s"

    def line(self) -> str:
        return (
            f"{self.system}/{self.recipe}: {self.metric} {self.figure()}, {self.cost()} each, "
            f"{self.environment['processor']}"
        )


def read() -> list[Record]:
    """All records, in the catalogue's order."""
    from torchstone.systems import CATALOGUE

    order = [entry.name for entry in CATALOGUE]
    files = [f for f in sorted(FOLDER.glob("*.json")) if f.name != "plans.json"]
    records = [Record(**json.loads(file.read_text())) for file in files]
    return sorted(records, key=lambda r: (order.index(r.system), r.recipe))


def of_system(name: str) -> Iterator[Record]:
    return (record for record in read() if record.system == name)
