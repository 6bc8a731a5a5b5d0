"""Law 14: no test of `make test` takes long, by the table that `make durations` wrote."""

import json
from pathlib import Path

TABLE = Path(__file__).parents[1] / "durations.json"
LIMIT = 20.0  # seconds


def wrongs(table: dict | None = None, tests: Path = TABLE.parent) -> list[str]:
    """Tests above the limit, and lines of files that are there no longer."""
    slowest = (json.loads(TABLE.read_text()) if table is None else table)["slowest"]
    found = [
        f"{name} takes {seconds} s, more than {LIMIT:g}: make it faster, or mark it sweep"
        for name, seconds in slowest.items()
        if seconds > LIMIT
    ]
    files = {name.partition("::")[0] for name in slowest}
    gone = sorted(file for file in files if not (tests.parent / file).exists())
    return found + [f"durations.json lists {file}, which is there no longer: make durations" for file in gone]
