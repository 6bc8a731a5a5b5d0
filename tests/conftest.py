"""What every test shares."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched from a hub in tests

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typechecker  # before the first import of the package  # noqa: F401
from shared_cache import made_once, shared_folder

torch.set_num_threads(1)

pytest_plugins = ["durations"]

# runs that tests use where any run will do: SYSTEM/RECIPE, fields, intervals
RUNS = {
    "lenet5": ("lenet5/digits", {"steps": 150}, {"save": 40}),
    "gpt": ("gpt/smoke", {}, {}),
    "ddpm": ("ddpm/smoke", {}, {}),
    "dit": ("dit/smoke", {}, {}),
    "dqn": ("dqn/smoke", {}, {}),
    "stylegan": ("stylegan/smoke", {}, {}),
    "dalle3": ("dalle3/smoke", {}, {}),
}


@pytest.fixture(autouse=True)
def _restore_global_state():
    """No test leaves another precision or generator state behind."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory) -> Path:
    """A folder of this session that all of its processes share; see `shared_cache.made_once`."""
    return shared_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def trained_run(session_folder) -> Callable[[str], Path]:
    """The folder of a finished run by its name in `RUNS`, trained once a session; it is only read."""

    def find(name: str) -> Path:
        def train(folder: Path) -> None:
            import torchstone as ts

            spec, fields, intervals = RUNS[name]
            ts.train(spec, out=folder / name, quiet=True, intervals=intervals, **fields)

        return made_once(session_folder / f"trained-{name}", train) / name

    return find


@pytest.fixture
def trained_copy(trained_run, tmp_path) -> Callable[[str], Path]:
    """A copy of such a run, for tests that write to it."""
    return lambda name: shutil.copytree(trained_run(name), tmp_path / "copy")


@pytest.fixture(scope="session")
def page_of(session_folder) -> Callable:
    """A system's page as `make docs` would write it now, made once a session."""

    from torchstone.tools.docs import page as make_page

    def page(entry) -> str:
        def write(folder: Path) -> None:
            (folder / "page.md").write_text(make_page(entry))

        return (made_once(session_folder / f"page-{entry.name}", write) / "page.md").read_text()

    return page
