"""Measured results that can be measured again: one JSON file a recipe, and the README's table.

python -m torchstone.tools.records                    measure every plan in records/plans.json
python -m torchstone.tools.records lenet5/mnist5k     only this one
python -m torchstone.tools.records --table            write the README's table from the files
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from torchstone.engine import openmp
from torchstone.runs.records import CURVES, FOLDER, Record, read

START, END = "<!-- records -->", "<!-- end of records -->"


def measure(name: str, plan: dict, data_root: Path | None, kept_in: Path | None = None) -> Record:
    """Train a recipe once a seed, and keep the figures.

    Args:
        kept_in: where the runs stay, as `SYSTEM-RECIPE-SEED`; one that is there is gone on with, and is
            not trained again if it has ended. Without it they are let go.
    """
    from torchstone import api

    system, recipe = name.split("/")
    fields, said = dict(plan.get("fields", {})), ""
    if "data" in plan:
        if data_root is None:
            raise SystemExit(f"{name} needs --data-root, a folder that holds {plan['data']!r}")
        fields["data"] = str(data_root / plan["data"])
        said = f" --data {Path(plan['data']).name}"
    said += "".join(f" --{key} {value}" for key, value in plan.get("fields", {}).items())
    values, seconds, worked, note, count, around = [], [], [], "", None, {}
    baselines: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        runs = [Path(root) / f"{recipe}-{seed}" for seed in plan["seeds"]]
        if kept_in is not None:
            runs = [kept_in / f"{system}-{recipe}-{seed}" for seed in plan["seeds"]]
        for seed, folder in zip(plan["seeds"], runs, strict=True):
            began, whole = time.process_time(), not folder.exists()
            if whole:
                api.train(name, out=folder, seed=seed, **fields)
            elif api.read_recipe(folder)[2] != api.recipe_of(name, {"seed": seed, **fields})[2]:
                raise SystemExit(f"{folder} was trained by another recipe: move it away")
            elif not (folder / "result.json").exists():
                api.resume(folder)
            if whole:
                worked.append(round(time.process_time() - began, 1))
            result = json.loads((folder / "result.json").read_text())
            found = result["metrics"]
            values.append(found[plan["metric"]])
            seconds.append(result["seconds"])
            note, count = result["data"] or "", result["parameters"]
            if data_root is not None:  # a record says nothing of the machine's folders
                note = note.replace(f"{data_root}/", "")
            for other in plan.get("beside", ()):
                level = untrained(folder, plan) if other == "untrained" else found[other]
                baselines.setdefault(other, []).append(level)
            around = json.loads((folder / "environment.json").read_text())
            print(f"{name} seed {seed}: {plan['metric']} {values[-1]:.4f} in {seconds[-1]:.1f} s")
        CURVES.mkdir(parents=True, exist_ok=True)
        api.compare(runs, out=CURVES / f"{name.replace('/', '-')}.png")
    kept = (
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
    where = {key: value for key, value in around.items() if key in kept}
    command = f"torchstone train {name}{said} --seed {{{','.join(map(str, plan['seeds']))}}}"
    return Record(
        system, recipe, command, note, plan["metric"], plan.get("target"), plan["seeds"], values,
        seconds, count, where, {name: statistics.mean(each) for name, each in baselines.items()},
        worked if len(worked) == len(values) else [],
    )  # fmt: skip


def untrained(folder: Path, plan: dict) -> float:
    """The plan's metric on validation data before the first step."""
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["step"], first["split"]) == (0, "val"), first
    return first[plan["metric"].split("/")[1]]


def table(records: list[Record]) -> str:
    """The README's table."""
    lines = [
        "| command | data | parameters | metric | reached | target | time |",
        "|---|---|--:|---|--:|--:|--:|",
    ]
    for r in records:
        count = "" if r.parameters is None else f"{r.parameters:,}"
        lines.append(
            f"| `torchstone train {r.system}/{r.recipe}` | {r.data.split(';')[0]} | {count} | "
            f"{r.metric} | {r.reached()} | {r.aim()} | {r.cost()} |"
        )
    return "\n".join(lines)


def with_table(page: str, records: list[Record]) -> str:
    """A page with what stands between the two marks replaced by the table."""
    pattern = re.compile(f"{START}.*?{END}", re.DOTALL)
    return pattern.sub(lambda _: f"{START}\n{table(records)}\n{END}", page)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torchstone.tools.records", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SYSTEM/RECIPE")
    parser.add_argument("--data-root", type=Path, help="folder with the larger sets")
    parser.add_argument("--runs", type=Path, help="folder in which runs stay, and are gone on with")
    parser.add_argument("--table", action="store_true", help="only rewrite the README's table")
    args = parser.parse_args()
    openmp.settle()  # as the command line does
    plans = json.loads((FOLDER / "plans.json").read_text())
    measurable = [name for name, plan in plans.items() if "unmeasured" not in plan]
    for name in args.names:
        if name not in measurable:
            why = plans.get(name, {}).get("unmeasured", "it has no plan in records/plans.json")
            parser.error(f"{name} cannot be measured here: {why}")
    for name in [] if args.table else args.names or measurable:
        record = measure(name, plans[name], args.data_root, args.runs)
        file = FOLDER / f"{name.replace('/', '-')}.json"
        file.write_text(json.dumps(asdict(record), indent=1) + "\n")
        print(record.line())
    readme = FOLDER.parent / "README.md"
    readme.write_text(with_table(readme.read_text(), read()))


if __name__ == "__main__":
    main()
