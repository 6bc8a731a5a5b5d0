"""A staged run goes on inside any stage, and between them, as if it had not been stopped."""

import json
import os
import shutil
import signal

import pytest
import torch
import toy_systems
from toy_systems import Crash, cut, differing, fingerprint, rows

from torchstone import api, files
from torchstone.engine import checkpoint
from torchstone.engine import run as engine
from torchstone.errors import Interrupted
from torchstone.runs import folder

STEPS = 8
CLOCK = {"log": 2, "evaluate": 4, "save": 3}


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    toy_systems.enter(monkeypatch)


def crashing(stage: int, after: int):
    """`build`, with the stream of one stage breaking after so many steps."""

    def build(recipe):
        for index, run in enumerate(toy_systems.staged(recipe.seed, recipe.steps)):
            yield cut(run, after) if index == stage else run

    return build


def train(out):
    return api.train("toy", out=out, intervals=CLOCK, quiet=True)


def resume(out):
    torch.manual_seed(4242)  # a new process would stand elsewhere
    return api.resume(out, quiet=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        toy_systems.enter(patch)
        run = train(out)
    return fingerprint(run), rows(out), json.loads((out / "result.json").read_text())["metrics"]


def assert_same(run, out, expected):
    parts, written, results = expected
    print(f"{len(parts)} parts of state and {len(written)} rows compared")
    assert differing(parts, fingerprint(run)) == []
    assert rows(out) == written
    assert json.loads((out / "result.json").read_text())["metrics"] == results


@pytest.mark.parametrize(("stage", "after"), [(0, 0), (0, 2), (0, 7), (1, 0), (1, 2), (1, 5), (1, 7)])
def test_staged_run_interrupted_in_a_stage(stage, after, tmp_path, monkeypatch, expected):
    with monkeypatch.context() as patch:
        patch.setattr(toy_systems, "build", crashing(stage, after))
        with pytest.raises(Crash):
            train(tmp_path / "run")
    assert_same(resume(tmp_path / "run"), tmp_path / "run", expected)


def test_staged_run_interrupted_in_every_stage(tmp_path, monkeypatch, expected):
    out, go = tmp_path / "run", train
    for stage, after in ((0, 4), (0, 1), (1, 1), (1, 3), (1, 2)):
        with monkeypatch.context() as patch:
            patch.setattr(toy_systems, "build", crashing(stage, after))
            with pytest.raises(Crash):
                go(out)
        go = resume
    assert_same(resume(out), out, expected)


def test_staged_run_rows_count_steps_through(expected):
    _, written, _ = expected
    steps = [row["step"] for row in written]
    train_steps = [row["step"] for row in written if row["split"] == "train"]
    print(steps)
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] == 2 * STEPS
    assert train_steps == list(range(2, 2 * STEPS + 1, 2))


# Where a crash between the stages can fall: each of these is called once there, and breaks.
BETWEEN = {
    "before the stage is set aside": (shutil, "copytree"),
    "while it is being copied": (shutil, "copy2"),
    "before its copy takes the name": (files.os, "replace"),
    "while the next stage is built": (toy_systems, "controller"),
    "before the run is finished": (folder, "write_result"),
}


@pytest.mark.parametrize("where", BETWEEN)
def test_staged_run_crash_between_stages(where, tmp_path, monkeypatch, expected):
    owner, name = BETWEEN[where]

    def crash(*_, **__):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        if name == "replace":  # only of a finished stage's copy
            patch.undo()
            replace = os.replace
            only = lambda old, new: crash() if "stages" in str(new) else replace(old, new)  # noqa: E731
            patch.setattr(owner, name, only)
        if name == "copy2":
            copytree = shutil.copytree
            patch.setattr(shutil, "copytree", lambda a, b: copytree(a, b, copy_function=crash))
        with pytest.raises(Crash):
            train(tmp_path / "run")
    assert_same(resume(tmp_path / "run"), tmp_path / "run", expected)


@pytest.mark.parametrize("saved", range(2, 9))
def test_staged_run_crash_between_renames(saved, tmp_path, monkeypatch, expected):
    """The newest then has no name but `checkpoint.new`, whatever the stage."""
    rename, seen = checkpoint.os.rename, []

    def crash(old, new):
        if str(new).endswith("checkpoint"):
            seen.append(new)
            if len(seen) == saved:
                raise Crash
        rename(old, new)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "rename", crash)
        with pytest.raises(Crash):
            train(out)
    assert not (out / "checkpoint").exists()
    print(f"save {saved}:", sorted(p.name for p in out.iterdir() if "checkpoint" in p.name))
    assert_same(resume(out), out, expected)


def test_staged_run_finished_resume_is_identity(tmp_path, expected):
    train(tmp_path / "run")
    assert_same(resume(tmp_path / "run"), tmp_path / "run", expected)


def test_staged_run_signal_at_end_of_stage(tmp_path, monkeypatch, expected):
    def signalled(recipe):
        first = next(stages := toy_systems.staged(recipe.seed, recipe.steps))
        update, steps = first.update, iter(range(1, STEPS + 1))

        def last(batch):
            if next(steps) == STEPS:
                signal.raise_signal(signal.SIGTERM)
            return update(batch)

        first.update = last
        yield first
        yield from stages

    with monkeypatch.context() as patch:
        patch.setattr(toy_systems, "build", signalled)
        with pytest.raises(Interrupted, match=f"step {STEPS} of {STEPS}") as stopped:
            train(tmp_path / "run")
    assert stopped.value.signal == signal.SIGTERM
    assert_same(resume(tmp_path / "run"), tmp_path / "run", expected)


# ------------------------------------------------------------------------ the law is able to fail


def resumed_in_the_second_stage(out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(toy_systems, "build", crashing(1, 5))
        with pytest.raises(Crash):
            train(out)
    return fingerprint(resume(out))


def test_staged_run_build_draws_repeat_on_resume(tmp_path, monkeypatch, expected):
    """The starts of stage two come from the global generator as stage one left it."""
    monkeypatch.setattr(
        engine, "skip_finished_stage", lambda run, kept: checkpoint.load(kept, dict(run.state))
    )
    apart = differing(expected[0], resumed_in_the_second_stage(tmp_path / "run", monkeypatch))
    print("generators not put back:", apart)
    assert apart == ["model.control"]


def test_staged_run_second_stage_needs_first(tmp_path, monkeypatch, expected):
    """Neither passed over with its weights nor kept in the second's state: another controller."""
    staged = toy_systems.staged

    def forgetful(seed, steps):
        for run in staged(seed, steps):
            run.state.pop("world", None)
            yield run

    monkeypatch.setattr(toy_systems, "staged", forgetful)
    kept = differing(expected[0], resumed_in_the_second_stage(tmp_path / "a", monkeypatch))
    assert {name.split(".")[0] for name in kept} == {"world"}  # only not listed: stage one has it
    monkeypatch.setattr(engine, "skip_finished_stage", lambda run, kept: None)
    lost = differing(expected[0], resumed_in_the_second_stage(tmp_path / "b", monkeypatch))
    print("stage one not put back:", lost)
    assert "model.control" in lost
