"""The files of a run folder: recipe, environment, result, pictures."""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from torchstone.engine import parallel
from torchstone.engine.meter import read_rows
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.files import atomic_write
from torchstone.plots.curves import draw_curves


def create_run_folder(folder: Path, system: str, recipe_name: str, recipe: Any, intervals: dict) -> None:
    """Make the folder, in place of a run that was there.

    Raises:
        BadInput: the system does not let it be made.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        why = error.strerror or error
        raise BadInput(f"cannot make the folder {folder} ({why}): choose another --out") from None
    fields = dataclasses.asdict(recipe)
    write_json(folder / "environment.json", environment())
    saved = {"system": system, "recipe": recipe_name, "fields": fields, "intervals": intervals}
    write_json(folder / "recipe.json", saved)


def write_result(folder: Path, system: str, recipe_name: str, run: Run, steps: int) -> None:
    """Write the result and draw the pictures of a finished run."""
    rows = read_rows(folder / "metrics.jsonl")
    model, count = run.state.get("model"), None
    if isinstance(model, torch.nn.Module):
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    result = {
        "system": system,
        "recipe": recipe_name,
        "steps": steps,
        "seconds": max((row["time"] for row in rows), default=0.0),
        "parameters": count,
        "metrics": run.results,
        "data": run.metadata.get("data"),
    }
    write_json(folder / "result.json", result)
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    draw_curves(folder, pictures / "curves.png")
    if run.report is not None:
        run.report(pictures)


def write_json(file: Path, content: Any) -> None:
    """JSON, all or nothing."""
    with atomic_write(file) as new:
        new.write_text(json.dumps(content, indent=1, default=str) + "\n")


def read_intervals(folder: Path) -> dict:
    """When a run folder's run evaluates and saves; earlier versions wrote `clock`."""
    saved = json.loads((folder / "recipe.json").read_text())
    return saved["intervals"] if "intervals" in saved else saved["clock"]


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
