"""The laws, over the whole catalogue. That each can fail is shown in `test_planted_faults.py`."""

from pathlib import Path

import laws
import layers
import pytest

import torchstone
from torchstone.systems import CATALOGUE

every = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)


@every
def test_1_same_seed_same_losses(entry):
    laws.same_seed_same_losses(entry)


@every
def test_2_killed_and_resumed_in_a_fresh_process(entry, tmp_path):
    laws.killed_and_resumed(entry, tmp_path)


@every
def test_3_it_learns(entry):
    laws.learns(entry)


@every
def test_4_facts_and_reference(entry):
    laws.verified(entry)


def test_5_eager_is_compiled():
    """All in one process of their own: torch.compile cannot see through a run-time check of shapes."""
    names = [entry.name for entry in CATALOGUE if laws.compiles(entry)]
    assert names
    done = laws.child("compiled", "inductor", "-", *names)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(f"{name}, inductor:" in done.stdout for name in names)


@every
def test_6_every_parameter_learns(entry):
    laws.every_parameter_learns(entry)


def test_7_imports_point_one_way_and_nothing_of_ours_is_subclassed():
    root = Path(torchstone.__file__).parent
    found = layers.wrongs(root)
    print(f"{len(list(root.rglob('*.py')))} files read")
    assert not found, "\n".join(found)


@every
def test_8_the_entry_is_complete(entry):
    laws.complete(entry)
