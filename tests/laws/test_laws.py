"""The laws, over the whole catalogue. That each can fail is shown in `test_planted_faults.py`."""

from pathlib import Path

import import_rules
import laws
import pytest

import torchstone
from torchstone.systems import CATALOGUE

every = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)

# even their smallest network trains for most of a minute here: pytest -m slow
LARGE = ("alexnet", "vgg", "googlenet")
trained = pytest.mark.parametrize(
    "entry",
    [pytest.param(e, marks=pytest.mark.slow if e.name in LARGE else ()) for e in CATALOGUE],
    ids=lambda entry: entry.name,
)


@trained
def test_1_same_seed_same_losses(entry):
    laws.same_seed_same_losses(entry)


@trained
def test_2_killed_and_resumed_in_a_fresh_process(entry, tmp_path):
    laws.killed_and_resumed(entry, tmp_path)


@trained
def test_3_it_learns(entry):
    laws.learns(entry)


@every
def test_4_facts_and_reference(entry):
    laws.verified(entry)


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_5_eager_is_compiled(backend):
    """All in one process of their own: torch.compile cannot see through a run-time check of shapes.

    The chapter of networks is traced whole, without graph breaks; generating code for each takes
    most of a minute here, so that is done for the first two.
    """
    compiled = [entry.name for entry in CATALOGUE if laws.compiles(entry)]
    names = compiled[:2] if backend == "inductor" else compiled[2:]
    assert names
    done = laws.child("compiled", backend, "-", *names)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(f"{name}, {backend}:" in done.stdout for name in names)


@every
def test_6_every_parameter_learns(entry):
    laws.every_parameter_learns(entry)


def test_7_imports_point_one_way_and_nothing_of_ours_is_subclassed():
    root = Path(torchstone.__file__).parent
    found = import_rules.wrongs(root)
    print(f"{len(list(root.rglob('*.py')))} files read")
    assert not found, "\n".join(found)


@every
def test_8_the_entry_is_complete(entry):
    laws.complete(entry)
