"""Runs are cut and compared by what `tests/engine/toy_systems.py` has for it."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "engine"))
