"""The files of a run folder: recipe, environment, result, pictures."""

import dataclasses
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from torchstone.engine import parallel
from torchstone.engine.meter import read_rows
from torchstone.engine.run import EVALUATION_SHARE, Run
from torchstone.errors import BadInput
from torchstone.files import atomic_write, parse_json
from torchstone.plots.curves import draw_curves
from torchstone.runs import lock


def create_run_folder(
    folder: Path, system: str, recipe_name: str, recipe: Any, intervals: dict, sources: Sequence[dict] = ()
) -> None:
    """Make the folder, in place of a run that was there. The folder itself stays, if there is one: it may be
    a link, or a place where a disk is mounted.

    Args:
        sources: identities of the data, see `data.identity`.

    Raises:
        BadInput: the system does not let it be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each.name != lock.NAME:
                each.unlink()
    except OSError as error:
        why = error.strerror or error
        raise BadInput(f"cannot make the folder {folder} ({why}): choose another --out") from None
    fields = dataclasses.asdict(recipe)
    write_json(folder / "environment.json", environment())
    intervals = {"evaluation_share": EVALUATION_SHARE} | intervals  # so that another default changes no run
    saved = {"system": system, "recipe": recipe_name, "fields": fields, "intervals": intervals}
    write_json(folder / "recipe.json", saved | ({"data": without_sketch(sources)} if sources else {}))


def without_sketch(sources: Sequence[dict]) -> list[dict]:
    """Identities as a person reads them."""
    return [{key: value for key, value in source.items() if key != "sketch"} for source in sources]


def note_changes(folder: Path, fields: Mapping[str, Any], step: int, sources: Sequence[dict]) -> None:
    """Change fields of a run's recipe, and note under `changes` what they were, and to which step."""
    file = folder / "recipe.json"
    saved = json.loads(file.read_text())
    before = {name: saved["fields"].get(name) for name in fields}
    note = {"step": step, "before": before, "data_before": saved.get("data")}
    saved["fields"] |= fields
    write_json(file, saved | {"data": without_sketch(sources), "changes": [*saved.get("changes", ()), note]})


def accepted_data(folder: Path) -> list[dict] | None:
    """The identity of the data that a run went on with at its user's wish, which its checkpoint may not
    have yet; None if it did not."""
    saved = json.loads((folder / "recipe.json").read_text())
    changed = any("data" in note["before"] for note in saved.get("changes", ()))
    return saved["data"] if changed else None


def write_result(folder: Path, system: str, recipe_name: str, run: Run, steps: int) -> None:
    """Write the result and draw the pictures of a finished run."""
    rows = read_rows(folder / "metrics.jsonl")
    model, count = run.state.get("model"), None
    if isinstance(model, torch.nn.Module):
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    best = None if run.best is None else run.best.about()
    if best is not None:
        best["step"] += steps - run.step  # those of the stages before are counted too
    result = {
        "system": system,
        "recipe": recipe_name,
        "steps": steps,
        "planned_steps": steps + run.steps - run.step,
        "best": best,
        "seconds": max((row["time"] for row in rows), default=0.0),
        "parameters": count,
        "metrics": run.results,
        "data": run.metadata.get("data"),
        "classes": len(run.metadata["classes"]) if run.metadata.get("classes") else None,
    }
    write_json(folder / "result.json", result)
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    draw_curves(folder, pictures / "curves.png")
    if run.report is not None:
        with run.best_weights():
            run.report(pictures)


def write_json(file: Path, content: Any) -> None:
    """JSON, all or nothing."""
    with atomic_write(file) as new:
        new.write_text(json.dumps(content, indent=1, default=str) + "\n")


def read_intervals(folder: Path) -> dict:
    """When a run folder's run evaluates and saves; earlier versions wrote `clock`.

    Raises:
        BadInput: the folder does not say so.
    """
    file = folder / "recipe.json"
    try:
        saved = parse_json(file.read_text())
        intervals = saved["intervals"] if "intervals" in saved else saved["clock"]
        if not isinstance(intervals, dict):
            raise TypeError("intervals")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} does not say when to evaluate and to save ({error!r}): restore it") from None
    return {"evaluation_share": math.inf} | intervals  # earlier versions evaluated 20 times


def environment() -> dict:
    """Versions, commit, hardware and command."""
    names = ("torchstone", "torch", "numpy", "safetensors")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([_program(), *sys.argv[1:]]),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "commit": commit(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "processes": parallel.world_size(),
    }


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "python -m torchstone" if name == "__main__.py" else name


def commit() -> str | None:
    """The commit of the source tree this package runs from, if it is one; `+` marks changed files."""
    here = Path(__file__).parents[1]  # the whole package

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not git("ls-files", __file__):
            return None
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(git("status", "--porcelain", "."))
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
