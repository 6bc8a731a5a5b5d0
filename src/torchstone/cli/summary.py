"""The closing lines of a training."""

import json
from typing import TYPE_CHECKING, Any

from torchstone import systems

if TYPE_CHECKING:
    from rich.console import Console

# what systems that can do both do with some data
PREDICTS = ("forecast", "adding", "copy")
PLAYED = ("team", "riddle", "iterated")  # agents that are played without an opponent at the terminal


def table_console() -> "Console":
    """Where tables are printed: on a terminal as wide as that is, into pipes and files with whole rows."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000)


def print_summary(run: Any) -> None:
    """What a run reached, or several seeds (a record), and where to look."""
    from torchstone.engine import parallel

    if isinstance(run, dict):
        return print_seed_summary(run)
    if parallel.rank() or run.folder is None:
        return
    result = json.loads((run.folder / "result.json").read_text())
    width = max(16, *map(len, run.results)) if run.results else 16
    for name, value in run.results.items():
        print(f"{name:<{width}} {value:.4f}")
    if best := result.get("best"):
        line = f"{'best checkpoint':<16} step {best['step']} of {result['steps']} by val/{best['metric']}"
        if result["steps"] < result["planned_steps"]:
            line += f"; stopped early, {best['stale']} evaluations later"
        print(line)
    print(f"{'training time':<16} {result['seconds']:.1f} s")
    print(f"{'run folder':<16} {run.folder}")
    for picture in sorted((run.folder / "pictures").glob("*")):
        print(f"{'picture':<16} {picture}")
    if hasattr(run, "metadata") and run.metadata.get("task") != "play":
        verb = _verb(result["system"], run.metadata)
        print(f"{'use it':<16} torchstone {verb} {run.folder}{'' if verb == 'play' else ' …'}")


def _verb(system: str, metadata: dict[str, Any]) -> str:
    """What a run is used with: what its system has, of two what its task is about."""
    from torchstone.runs.export import GENERATIVE

    module = systems.find(system)[0].module()
    if hasattr(module, "table") or metadata.get("task") in PLAYED:
        return "play"
    if not hasattr(module, "sample"):
        return "predict"
    if not hasattr(module, "predict"):
        return "sample"
    if metadata.get("task") in GENERATIVE:
        return "sample"
    return "predict" if "classes" in metadata or metadata.get("task") in PREDICTS else "sample"


def print_seed_summary(record: dict[str, Any]) -> None:
    what = f"{record['folds']} folds" if "folds" in record else f"{len(record['seeds'])} seeds"
    print(f"{what}, {sum(record['seconds']):.1f} s of training")
    for name, each in record["metrics"].items():
        low, high = each["interval"]
        print(
            f"{name:<20} interquartile mean {each['interquartile_mean']:.4f} "
            f"(95 %: {low:.4f} to {high:.4f}), mean {each['mean']:.4f} ± {each['spread']:.4f}"
        )
    print(f"{'record':<20} {record['folder']}/record.json")
    print(f"{'picture':<20} {record['folder']}/curves.png")
