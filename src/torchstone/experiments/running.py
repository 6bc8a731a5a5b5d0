"""Measuring a claim: one row of numbers a seed, kept as soon as it is there."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchstone.engine.console import activity
from torchstone.errors import BadInput
from torchstone.experiments.catalogue import read_claim
from torchstone.experiments.claim import Row, Verdict
from torchstone.files import atomic_write, parse_json
from torchstone.plots.canvas import save
from torchstone.runs.folder import environment
from torchstone.runs.records import ENVIRONMENT_FIELDS
from torchstone.runs.records import FOLDER as RECORDS

RESULT, FIGURE = "result.json", "figure.png"
FOLDER = RECORDS / "claims"


@dataclass
class Measurement:
    """The numbers of a claim, by seed, and where they were measured."""

    claim: str
    seeds: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    core_seconds: list[float] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)

    def verdict(self) -> Verdict:
        return read_claim(self.claim).judge(self.rows)


def read_measurement(file: Path, name: str) -> Measurement:
    """What was measured of claim `name`.

    Raises:
        BadInput: the file is damaged, or of another claim.
    """
    try:
        measurement = Measurement(**parse_json(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{file} is no measurement of a claim ({error}): remove it") from None
    if measurement.claim != name:
        raise BadInput(f"{file} is of the claim {measurement.claim}, not {name}: choose another --out")
    return measurement


def record_of(name: str) -> Measurement | None:
    """The measurement that is kept in `records/claims`; None where there is none."""
    file = FOLDER / f"{name}.json"
    return read_measurement(file, name) if file.exists() else None


def run_claim(name: str, out: Path, seeds: Sequence[int] | None = None) -> Measurement:
    """Measure a claim, one seed after another, and draw its figure.

    A seed that is in `out` is not measured again: a run that was stopped goes on with the next one.

    Args:
        out: folder of `result.json` and `figure.png`.
        seeds: by default the claim's own.

    Raises:
        BadInput: no such claim; a seed twice or below zero; a folder of another claim.
    """
    module = read_claim(name)
    seeds = module.CLAIM.seeds if seeds is None else tuple(seeds)
    if len(set(seeds)) < len(seeds) or min(seeds, default=-1) < 0:
        raise BadInput(f"seeds are different whole numbers from 0 on, not {', '.join(map(str, seeds))}")
    file = out / RESULT
    measured = read_measurement(file, name) if file.exists() else Measurement(name)
    out.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds, 1):
        if seed not in measured.seeds:
            began = time.process_time()
            with activity(f"{name}: seed {seed} ({number} of {len(seeds)})"):
                row = module.measure(seed)
            measured.seeds.append(seed)
            measured.rows.append(row)
            measured.core_seconds.append(round(time.process_time() - began, 1))
            measured.environment = {k: v for k, v in environment().items() if k in ENVIRONMENT_FIELDS}
            write_measurement(measured, file)
    chosen = select(measured, seeds)
    save(module.draw(chosen.rows), out / FIGURE)
    return chosen


def select(measured: Measurement, seeds: Sequence[int]) -> Measurement:
    """Only these seeds, in this order."""
    index = [measured.seeds.index(seed) for seed in seeds]
    return Measurement(
        measured.claim,
        list(seeds),
        [measured.rows[i] for i in index],
        [measured.core_seconds[i] for i in index],
        measured.environment,
    )


def write_measurement(measured: Measurement, file: Path) -> None:
    with atomic_write(file) as new:
        new.write_text(json.dumps(asdict(measured), indent=1) + "\n")
