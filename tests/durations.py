"""How long tests take, as a table: pytest --durations-file=tests/durations.json

`make durations` writes it of all that `make test` runs, on a machine that does nothing else; law 14 holds it
against the limit.
"""

import json
import platform
from collections import defaultdict
from pathlib import Path

import pytest

LEAST = 1.0  # seconds of a test that is listed


def pytest_addoption(parser):
    parser.addoption("--durations-file", type=Path, help="write what each test took to this JSON file")


def pytest_configure(config):
    file = config.getoption("durations_file")
    if file is not None and not hasattr(
        config, "workerinput"
    ):  # a worker's reports come to the first process
        config.pluginmanager.register(Table(file))


class Table:
    """Seconds of each test, its own fixtures included."""

    def __init__(self, file: Path):
        self.file, self.seconds = file, defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        slowest = sorted(self.seconds.items(), key=lambda item: -item[1])
        table = {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "tests": len(slowest),
            "seconds": round(sum(self.seconds.values()), 1),
            "slowest": {name: round(seconds, 1) for name, seconds in slowest if seconds >= LEAST},
        }
        self.file.write_text(json.dumps(table, indent=1) + "\n")
