"""Measured claims that can be measured again: one JSON file and one figure a claim.

python -m torchstone.tools.claims                     measure every claim that has no record
python -m torchstone.tools.claims relu-cures          only this one, anew
python -m torchstone.tools.claims --runs FOLDER ...   keep the folders of the runs, and go on with them
"""

import argparse
import importlib
import tempfile
from pathlib import Path
from typing import Any

from torchstone.engine import openmp
from torchstone.plots.canvas import save
from torchstone.tools import docs


def measure(name: str, folder: Path) -> None:
    """Run a claim in `folder`; write its record and its figure."""
    # a room beside this one, by its name
    running: Any = importlib.import_module("torchstone.experiments.running")
    page: Any = importlib.import_module("torchstone.experiments.page")
    catalogue: Any = importlib.import_module("torchstone.experiments.catalogue")
    measured = running.run_claim(name, folder / name)
    running.FOLDER.mkdir(parents=True, exist_ok=True)
    running.write_measurement(measured, running.FOLDER / f"{name}.json")
    save(catalogue.read_claim(name).draw(measured.rows), page.figure_of(name))
    print(f"{name}: {measured.verdict()}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torchstone.tools.claims", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--runs", type=Path, help="folder in which runs stay, and are gone on with")
    args = parser.parse_args()
    openmp.settle()  # as the command line does
    catalogue: Any = importlib.import_module("torchstone.experiments.catalogue")
    running: Any = importlib.import_module("torchstone.experiments.running")
    names = args.names or [name for name in catalogue.NAMES if running.record_of(name) is None]
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            measure(name, args.runs or Path(temporary))
    docs.write()


if __name__ == "__main__":
    main()
