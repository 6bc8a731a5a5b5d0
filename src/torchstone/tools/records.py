"""Measured results that can be measured again: one JSON file per recipe.

python -m torchstone.tools.records                    measure every plan in records/plans.json
python -m torchstone.tools.records lenet5/mnist5k     only this one
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from torchstone.engine import openmp
from torchstone.runs.records import CURVES, ENVIRONMENT_FIELDS, FOLDER, Record
from torchstone.tools import docs


def measure(name: str, plan: dict, data_root: Path | None, runs_folder: Path | None = None) -> Record:
    """Train a recipe once per seed, and return the record.

    Args:
        runs_folder: where the runs stay, as `SYSTEM-RECIPE-SEED`; one that is there is resumed, and not
            trained again if it has ended. Without it they are deleted.
    """
    from torchstone import api

    system, recipe = name.split("/")
    fields, options = dict(plan.get("fields", {})), ""
    if "data" in plan:
        if data_root is None:
            raise SystemExit(f"{name} needs --data-root, a folder that holds {plan['data']!r}")
        fields["data"] = str(data_root / plan["data"])
        options = f" --data {Path(plan['data']).name}"
    options += "".join(f" --{key.replace('_', '-')} {value}" for key, value in plan.get("fields", {}).items())
    values, seconds, core_seconds, data, count, environment = [], [], [], "", None, {}
    baselines: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        runs = [Path(root) / f"{recipe}-{seed}" for seed in plan["seeds"]]
        if runs_folder is not None:
            runs = [runs_folder / f"{system}-{recipe}-{seed}" for seed in plan["seeds"]]
        for seed, folder in zip(plan["seeds"], runs, strict=True):
            began, is_new = time.process_time(), not folder.exists()
            if is_new:
                api.train(name, out=folder, seed=seed, **fields)
            elif api.read_recipe(folder)[2] != api.recipe_of(name, {"seed": seed, **fields})[2]:
                raise SystemExit(f"{folder} was trained by another recipe: move it away")
            elif not (folder / "result.json").exists():
                api.resume(folder)
            if is_new:
                core_seconds.append(round(time.process_time() - began, 1))
            result = json.loads((folder / "result.json").read_text())
            metrics = result["metrics"]
            values.append(metrics[plan["metric"]])
            seconds.append(result["seconds"])
            data, count = result["data"] or "", result["parameters"]
            if data_root is not None:  # a record has no paths of one machine
                data = data.replace(f"{data_root}/", "")
            for other in plan.get("baselines", ()):
                level = untrained(folder, plan) if other == "untrained" else metrics[other]
                baselines.setdefault(other, []).append(level)
            environment = json.loads((folder / "environment.json").read_text())
            print(f"{name} seed {seed}: {plan['metric']} {values[-1]:.4f} in {seconds[-1]:.1f} s")
        CURVES.mkdir(parents=True, exist_ok=True)
        api.compare(runs, out=CURVES / f"{name.replace('/', '-')}.png")
    return Record(
        system=system,
        recipe=recipe,
        command=f"torchstone train {name}{options} --seed {{{','.join(map(str, plan['seeds']))}}}",
        data=data,
        metric=plan["metric"],
        target=plan.get("target"),
        seeds=plan["seeds"],
        values=values,
        seconds=seconds,
        parameters=count,
        environment={key: value for key, value in environment.items() if key in ENVIRONMENT_FIELDS},
        baselines={name: statistics.mean(each) for name, each in baselines.items()},
        core_seconds=core_seconds if len(core_seconds) == len(values) else [],
    )


def untrained(folder: Path, plan: dict) -> float:
    """The plan's metric on validation data before the first step."""
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["step"], first["split"]) == (0, "val"), first
    return first[plan["metric"].split("/")[1]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torchstone.tools.records", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SYSTEM/RECIPE")
    parser.add_argument("--data-root", type=Path, help="folder with the larger sets")
    parser.add_argument("--runs", type=Path, help="folder in which runs stay, and are gone on with")
    args = parser.parse_args()
    openmp.settle()  # as the command line does
    plans = json.loads((FOLDER / "plans.json").read_text())
    measurable = [name for name, plan in plans.items() if "unmeasured" not in plan]
    for name in args.names:
        if name not in measurable:
            why = plans.get(name, {}).get("unmeasured", "it has no plan in records/plans.json")
            parser.error(f"{name} cannot be measured here: {why}")
    for name in args.names or measurable:
        record = measure(name, plans[name], args.data_root, args.runs)
        file = FOLDER / f"{name.replace('/', '-')}.json"
        file.write_text(json.dumps(asdict(record), indent=1) + "\n")
        print(record.line())
    docs.write()


if __name__ == "__main__":
    main()
