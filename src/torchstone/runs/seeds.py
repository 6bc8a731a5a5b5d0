"""A recipe with several seeds: one run per seed in one folder, and one record of them all.

FOLDER/recipe.json   the recipe, with `seeds`
FOLDER/seed-0/ …     the runs
FOLDER/record.json   every final metric: the values of the runs, mean, standard deviation, interquartile mean
FOLDER/curves.png    validation over the steps
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from torchstone.errors import BadInput
from torchstone.files import parse_json
from torchstone.runs.execute import execute
from torchstone.runs.lock import locked
from torchstone.runs.recipes import read_recipe


def seeds_of(folder: Path) -> list[int]:
    """The seeds that a folder's runs are of; none of any other folder."""
    file = folder / "recipe.json"
    try:
        return parse_json(file.read_text()).get("seeds", []) if file.exists() else []
    except (OSError, ValueError, AttributeError):
        return []  # read_recipe says what is wrong with it


def runs_of(folder: Path) -> list[Path]:
    """The runs in a folder: itself, or one per seed."""
    return [folder / f"seed-{seed}" for seed in seeds_of(folder)] or [folder]


def create_seed_folder(folder: Path, entry: Any, name: str, recipe: Any, intervals: dict, count: int) -> None:
    """Make the folder; the seeds are the recipe's and those after it.

    Raises:
        BadInput: the recipe has no seed.
    """
    from torchstone.runs.folder import create_run_folder, write_json

    if not hasattr(recipe, "seed"):
        raise BadInput(f"{entry.name}/{name} has no seed: train it once, without --seeds")
    create_run_folder(folder, entry.name, name, recipe, intervals)
    seeds = list(range(recipe.seed, recipe.seed + count))
    saved = json.loads((folder / "recipe.json").read_text())
    write_json(folder / "recipe.json", saved | {"seeds": seeds})


def resume_seeds(folder: Path, *, device: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train what is not trained yet, and write the record."""
    from torchstone.plots.compare_runs import compare
    from torchstone.runs.folder import read_intervals, write_json

    entry, name, recipe = read_recipe(folder)
    if device is not None:
        recipe = dataclasses.replace(recipe, device=device)
    intervals = read_intervals(folder)
    for seed, run in zip(seeds_of(folder), runs_of(folder), strict=True):
        if not (run / "result.json").exists():
            own = dataclasses.replace(recipe, seed=seed)
            begun = (run / "recipe.json").exists()
            with locked(run):
                execute(entry, name, own, run, intervals, quiet, fresh=not begun)
    found = record(folder)
    write_json(folder / "record.json", found)
    compare(runs_of(folder), folder / "curves.png")
    return found | {"folder": folder}


def record(folder: Path) -> dict[str, Any]:
    """What the folder's runs reached together."""
    import numpy as np

    from torchstone.parts.metrics.interquartile_mean import interquartile_mean, interval

    results = [json.loads((run / "result.json").read_text()) for run in runs_of(folder)]
    metrics = {}
    for metric in results[0]["metrics"]:
        values = [result["metrics"].get(metric) for result in results]
        if any(value is None for value in values):
            continue
        low, high = interval(np.array(values))
        metrics[metric] = {
            "mean": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
            "interquartile_mean": float(interquartile_mean(np.array(values))),
            "interval": [float(low), float(high)],
            "values": values,
        }
    first = results[0]
    return {
        **{key: first[key] for key in ("system", "recipe", "steps", "parameters", "data")},
        "seeds": seeds_of(folder),
        "seconds": [result["seconds"] for result in results],
        "metrics": metrics,
        "environment": json.loads((folder / "environment.json").read_text()),
    }
