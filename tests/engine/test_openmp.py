"""Threads stay awake only where each has a core of its own, and where the user says nothing else."""

import os

import pytest

from torchstone.cli import main
from torchstone.engine import openmp


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of `cores`, on which `running` programs run, this one among them."""

    def made(cores, running, threads=None):
        (tmp_path / "loadavg").write_text(f"9.99 0.22 0.18 {running}/411 9120\n")
        monkeypatch.setattr(openmp, "RUNNING", tmp_path / "loadavg")
        monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back afterwards
        monkeypatch.delenv("GOMP_SPINCOUNT")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)

    return made


@pytest.mark.parametrize(
    ("cores", "running", "threads", "awake"),
    [(2, 1, None, True), (2, 2, None, False), (2, 2, "1", True), (2, 3, "1", False),
     (16, 9, "8", True), (16, 10, "8", False), (2, 1, "four", False)],
)  # fmt: skip
def test_openmp_spins_only_with_a_core_per_thread(machine, cores, running, threads, awake):
    machine(cores, running, threads)
    openmp.settle()
    print(f"{running} run on {cores} cores, threads {threads}: {os.environ.get('GOMP_SPINCOUNT')}")
    assert os.environ.get("GOMP_SPINCOUNT") == (None if awake else "1000")


def test_openmp_sleeps_when_load_is_unknown(machine, tmp_path, monkeypatch):
    machine(2, 1)
    monkeypatch.setattr(openmp, "RUNNING", tmp_path / "none")
    assert not openmp.quiet()
    (tmp_path / "none").write_text("0.1 0.1")
    assert not openmp.quiet()


def test_openmp_keeps_user_setting_and_skips_light_commands(machine, monkeypatch, capsys):
    machine(2, 5)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    openmp.settle()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    looked = []
    monkeypatch.setattr(openmp, "settle", lambda: looked.append(1))
    main.main(["list"])
    assert not looked
    main.main(["train", "nothing"])
    assert looked
