"""A recipe with several seeds, or on the folds of cross-validation: one run each in one folder, and one
record of them all.

FOLDER/recipe.json   the recipe, with `seeds` or `folds`
FOLDER/seed-0/ …     the runs; FOLDER/fold-0/ … of folds
FOLDER/record.json   every final metric: the values of the runs, mean, standard deviation, interquartile mean
FOLDER/curves.png    validation over the steps
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from torchstone.errors import BadInput
from torchstone.files import SKIP, parse_json
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


def folds_of(folder: Path) -> int:
    """How many folds a folder's runs are of; 0 of any other folder."""
    file = folder / "recipe.json"
    try:
        return parse_json(file.read_text()).get("folds", 0) if file.exists() else 0
    except (OSError, ValueError, AttributeError):
        return 0


def runs_of(folder: Path) -> list[Path]:
    """The runs in a folder: itself, or one per seed or fold."""
    folds = [folder / f"fold-{fold}" for fold in range(folds_of(folder))]
    return [folder / f"seed-{seed}" for seed in seeds_of(folder)] or folds or [folder]


def holds_several(folder: Path) -> bool:
    """Whether a folder's runs are those of several seeds or folds."""
    return runs_of(folder) != [folder]


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


def create_fold_folder(
    folder: Path, entry: Any, name: str, recipe: Any, intervals: dict, folds: int
) -> None:
    """Make the folder for a recipe's folds.

    Raises:
        BadInput: the system's data have no folds, or some fold would have a class without an example.
    """
    from torchstone.runs.folder import create_run_folder, write_json

    check_folds(entry, recipe, folds)
    create_run_folder(folder, entry.name, name, recipe, intervals)
    saved = json.loads((folder / "recipe.json").read_text())
    write_json(folder / "recipe.json", saved | {"folds": folds})


def check_folds(entry: Any, recipe: Any, folds: int) -> None:
    """Read the first fold, so that what is wrong with the folds is known before anything is written.

    Raises:
        BadInput: the system's data have no folds, or some fold would have a class without an example.
    """
    from torchstone.data import identity
    from torchstone.data.folds import split_fold

    nothing = f"{entry.name} has no folds: cross-validation is for labeled images and tables"
    if not hasattr(recipe, "data"):
        raise BadInput(nothing)
    if split_fold(recipe.data.removeprefix(SKIP))[1] is not None:
        raise BadInput(f"{recipe.data} is a fold already: leave out fold:I/K:, or --folds")
    with identity.listen() as heard:
        try:
            run = next(iter(entry.module().build(on_fold(recipe, 0, folds))))
        except BadInput as error:
            if "fold:0/" in str(error):
                raise BadInput(nothing) from None
            raise
    if run.metadata.get("task") == "play" or not heard.sources:
        raise BadInput(nothing)


def on_fold(recipe: Any, fold: int, folds: int) -> Any:
    """The recipe on a fold of its data."""
    from torchstone.data.folds import fold_spec

    skip = SKIP if recipe.data.startswith(SKIP) else ""
    data = skip + fold_spec(fold, folds, recipe.data.removeprefix(SKIP))
    return dataclasses.replace(recipe, data=data)


def resume_seeds(folder: Path, *, device: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train what is not trained yet, and write the record."""
    from torchstone.plots.compare_runs import compare
    from torchstone.runs.folder import read_intervals, write_json

    entry, name, recipe = read_recipe(folder)
    if device is not None:
        recipe = dataclasses.replace(recipe, device=device)
    intervals = read_intervals(folder)
    folds = folds_of(folder)
    recipes = [dataclasses.replace(recipe, seed=seed) for seed in seeds_of(folder)]
    recipes = recipes or [on_fold(recipe, fold, folds) for fold in range(folds)]
    for own, run in zip(recipes, runs_of(folder), strict=True):
        if not (run / "result.json").exists():
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
        **({"folds": folds_of(folder)} if folds_of(folder) else {"seeds": seeds_of(folder)}),
        "seconds": [result["seconds"] for result in results],
        "metrics": metrics,
        "environment": json.loads((folder / "environment.json").read_text()),
    }
