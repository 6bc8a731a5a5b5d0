"""Stopped by a signal or killed at any moment, a run goes on to the same bits.

Children are forked from this process, which has imported everything: a tenth of a second each.
"""

import itertools
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.utils.tensorboard  # before any fork
import toy_systems
from toy_systems import differing, rows, saved

from torchstone import api
from torchstone.cli import main
from torchstone.engine import checkpoint, signals
from torchstone.errors import BadInput, Interrupted

STEPS = 8  # in each of two stages
CLOCK = {"log": 2, "evaluate": 4, "save": 3}
OPTIONS = ["--log-every", "2", "--eval-every", "4", "--save-every", "3"]
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    toy_systems.enter(monkeypatch)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        toy_systems.enter(patch)
        api.train("toy", out=out, intervals=CLOCK, quiet=True)
    return saved(out), rows(out)


def fork(out: Path, work: Callable[[], int | None]) -> int:
    """A child that does `work` and leaves with what it returns; its number. What it says is kept."""
    child = os.fork()
    if child:
        return child
    code = 99
    # a shell's background job ignores SIGINT, and so would this one
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.stdout = sys.stderr = out.with_suffix(".said").open("w", buffering=1)
        code = work() or 0
    except Interrupted as stopped:
        code = 64 + stopped.signal  # so that it is not taken for the command line's 128
    except BaseException:  # noqa: BLE001  a child must never return into pytest
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How it ended: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(out: Path) -> None:
    api.train("toy", out=out, intervals=CLOCK, quiet=True)


def command(out: Path) -> int:
    return main.main(["train", "toy", "--out", str(out), *OPTIONS])


def resume(out: Path) -> None:
    torch.manual_seed(4242)  # a new process would stand elsewhere
    api.resume(out, quiet=True)


def assert_same(out: Path, expected) -> None:
    parts, written = expected
    resume(out)
    assert differing(parts, saved(out)) == []
    assert rows(out) == written


def gated(stop: int, at: Path, go: Path):
    """`build`, whose stream says at one step that it is there and waits until it may go on."""

    def build(recipe):
        steps = itertools.count(1)

        def waiting(stream):
            for batch in stream:
                if next(steps) == stop:
                    at.touch()
                    until(go)
                yield batch

        for run in whole(recipe):
            run.stream = waiting(run.stream)
            yield run

    whole = toy_systems.build
    return build


def until(file: Path) -> None:
    while not file.exists():
        time.sleep(0.002)


# ------------------------------------------------------------------------------- asked to stop

STOPS = [
    (how, number, random.Random(f"{how}{number}{i}").randint(1, 2 * STEPS))
    for how in ("python", "command line")
    for number in SIGNALS
    for i in range(2)
]


@pytest.mark.parametrize(("how", "number", "step"), STOPS)
def test_signal_saves_and_stops(how, number, step, tmp_path, monkeypatch, expected):
    out, at, go = (tmp_path / name for name in ("run", "at", "go"))
    with monkeypatch.context() as patch:
        patch.setattr(toy_systems, "build", gated(step, at, go))
        child = fork(out, lambda: (command if how == "command line" else train)(out))
        until(at)
        os.kill(child, number)
        go.touch()
        code = ended(child)
    said = out.with_suffix(".said").read_text()
    _, meta, _ = checkpoint.find(out / "checkpoint")
    reached = meta["stage"] * STEPS + meta["step"]
    print(f"{how}, {number.name} at step {step}: {code}, saved at {reached}; said {said!r}")
    assert code == (128 if how == "command line" else 64) + number
    assert reached == step
    if how == "command line":
        assert said.endswith(f"torchstone: stopped at step {step} of {_last(step)}, state saved\n")
    assert_same(out, expected)


def _last(step: int) -> int:
    """The last step that the stage of this step knows of."""
    return STEPS if step <= STEPS else 2 * STEPS


def stuck(at: Path, call: int):
    """`build`, whose evaluation says at one of its calls that it is there and never ends."""

    def build(recipe):
        calls = itertools.count(1)
        for run in whole(recipe):

            def evaluate(inner=run.evaluate):
                if next(calls) == call:
                    at.touch()
                    until(at.with_name("never"))
                return inner()

            run.evaluate = evaluate
            yield run

    whole = toy_systems.build
    return build


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("call", "step", "last"), [(1, 0, 0), (2, 4, 3), (5, 12, 11)])
def test_signal_ends_an_evaluation_that_does_not(number, call, step, last, tmp_path, monkeypatch, expected):
    """The first look, one in stage one, one in stage two: left from the last checkpoint, and made again."""
    out, at = tmp_path / "run", tmp_path / "at"
    with monkeypatch.context() as patch:
        patch.setattr(toy_systems, "build", stuck(at, call))
        patch.setitem(signals.GRACE, number, 0.05)
        child = fork(out, lambda: command(out))
        until(at)
        os.kill(child, number)
        code = ended(child)
    said = out.with_suffix(".said").read_text()
    print(f"{number.name} in evaluation {call}: {code}, saved at {saved_step(out)}; said {said!r}")
    assert code == 128 + number
    assert saved_step(out) == last
    rest = f"; the last checkpoint is of step {last}" if last < step else ", state saved"
    assert said.endswith(f"torchstone: stopped at step {step} of {_last(step)}{rest}\n")
    assert_same(out, expected)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_a_step_that_does_not(number, tmp_path, monkeypatch, expected):
    """Even one that swallows every error once."""
    out, at = tmp_path / "run", tmp_path / "at"
    until_file = until

    def swallowing(file: Path) -> None:
        try:
            until_file(file)
        except:  # noqa: E722  as Gymnasium's renderers do
            until_file(file)

    with monkeypatch.context() as patch:
        patch.setattr(toy_systems, "build", gated(6, at, tmp_path / "never"))
        patch.setitem(globals(), "until", swallowing)
        patch.setitem(signals.GRACE, number, 0.05)
        child = fork(out, lambda: command(out))
        until_file(at)
        os.kill(child, number)
        code = ended(child)
    said = out.with_suffix(".said").read_text()
    print(f"{number.name} in a step: {code}, saved at {saved_step(out)}; said {said!r}")
    assert code == 128 + number
    assert saved_step(out) == 3
    assert said.endswith("torchstone: stopped at step 5 of 8; the last checkpoint is of step 3\n")
    assert_same(out, expected)


def test_main_ends_a_program_at_once(monkeypatch):
    """Called by a test or a notebook it returns, as always."""
    left = []

    def interrupted(words):
        raise Interrupted("stopped", signal.SIGINT)

    monkeypatch.setattr(main, "_dispatch", interrupted)
    monkeypatch.setattr(main.os, "_exit", left.append)
    monkeypatch.setattr(sys, "argv", ["torchstone", "list"])
    called = main.main(["list"])
    print(called, left)
    assert (called, left) == (128 + signal.SIGINT, [])
    main.main()
    assert left == [128 + signal.SIGINT]


@pytest.mark.parametrize("nth", range(1, 9))
def test_signal_during_save_is_not_lost(nth, tmp_path, expected):
    out, save = tmp_path / "run", checkpoint.save

    def work():
        calls = itertools.count(1)

        def signalled(*arguments):
            if next(calls) == nth:
                signal.raise_signal(signal.SIGTERM)
            save(*arguments)

        checkpoint.save = signalled  # in the child only
        train(out)

    code = ended(fork(out, work))
    print(f"SIGTERM in save {nth}: {code}")
    assert code == 64 + signal.SIGTERM
    assert_same(out, expected)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_second_one_kills(number, tmp_path, monkeypatch, expected):
    out, at, caught = (tmp_path / name for name in ("run", "at", "caught"))
    catch = signals.Signals._catch

    def noted(self, *arguments):
        catch(self, *arguments)
        caught.touch()

    with monkeypatch.context() as patch:
        patch.setattr(signals.Signals, "_catch", noted)
        patch.setattr(toy_systems, "build", gated(6, at, tmp_path / "never"))
        child = fork(out, lambda: command(out))
        until(at)
        os.kill(child, number)
        until(caught)
        os.kill(child, number)
        code = ended(child)
    print(f"{number.name} twice in a step that never ends: {code}")
    assert code == (-signal.SIGTERM if number == signal.SIGTERM else 128 + signal.SIGINT)
    assert saved_step(out) == 3
    assert_same(out, expected)


def saved_step(out: Path) -> int:
    _, meta, _ = checkpoint.find(out / "checkpoint")
    return meta["stage"] * STEPS + meta["step"]


# ---------------------------------------------------------------------------------------- killed


@pytest.mark.parametrize("seed", range(8))
def test_sigkill_at_a_random_moment(seed, tmp_path, monkeypatch, expected):
    out = tmp_path / "run"
    delay = random.Random(seed).uniform(0, 0.3)
    with monkeypatch.context() as patch:
        # it never comes to its end by itself, however slow the machine that kills it
        patch.setattr(toy_systems, "build", gated(2 * STEPS, tmp_path / "at", tmp_path / "never"))
        child = fork(out, lambda: train(out))
        until(out / "checkpoint")
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
    print(f"killed {delay:.3f} s after the first checkpoint, saved at step {saved_step(out)}")
    assert_same(out, expected)


# Everything that `checkpoint.save` does to the disk.
DEEDS = [
    (checkpoint.shutil, "rmtree"),
    (checkpoint, "save_file"),
    (torch, "save"),
    (Path, "write_text"),
    (checkpoint, "_digest"),
    (checkpoint.os, "fsync"),
    (checkpoint.os, "rename"),
]


def deadly(nth_save: int, nth_deed: int) -> None:
    """From now on this process dies at one deed of one save: a writing is cut off half way."""
    save, saves, deeds = checkpoint.save, itertools.count(1), itertools.count(1)

    def die(owner, name, deed):
        def done(*arguments, **options):
            if next(deeds) != nth_deed:
                return deed(*arguments, **options)
            if name in ("save_file", "save", "write_text"):
                deed(*arguments, **options)
                file = next(a for a in arguments if isinstance(a, Path))
                os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, done)

    def armed(*arguments):
        if next(saves) != nth_save:
            return save(*arguments)
        before = [(owner, name, getattr(owner, name)) for owner, name in DEEDS]
        for each in before:
            die(*each)
        save(*arguments)
        for each in before:
            setattr(*each)

    checkpoint.save = armed


def killed_at_every_deed(nth_save: int, folder: Path):
    """Run folders, each of a process killed one deed later, until one lives through that save."""
    for nth_deed in itertools.count(1):
        out = folder / str(nth_deed)

        def work(out=out, nth_deed=nth_deed):
            deadly(nth_save, nth_deed)
            train(out)

        code = ended(fork(out, work))
        assert code in (0, -signal.SIGKILL), out.with_suffix(".said").read_text()
        if code == 0:
            return
        yield out


@pytest.mark.parametrize(  # stage one early and at its end, stage two
    "nth_save", [2, 5, *(pytest.param(number, marks=pytest.mark.sweep) for number in (4, 6))]
)
def test_sigkill_at_every_step_of_a_save(nth_save, tmp_path, expected):
    reached = []
    for out in killed_at_every_deed(nth_save, tmp_path):
        reached.append(saved_step(out))
        assert_same(out, expected)
    print(f"save {nth_save}: killed at {len(reached)} deeds; steps found saved: {reached}")
    assert len(reached) >= 12
    assert len(set(reached)) == 2 or nth_save == 5  # stage two begins where stage one ended


def test_sigkill_in_the_first_save(tmp_path, expected):
    """There may be no checkpoint then; the run begins again."""
    whole = []
    for out in killed_at_every_deed(1, tmp_path):
        whole.append(checkpoint.any_at(out / "checkpoint"))
        assert_same(out, expected)
    print("a whole checkpoint at each deed:", whole)
    assert len(whole) >= 9
    assert False in whole


# ------------------------------------------------------------------------ the law is able to fail


def test_sigkill_detects_remove_before_rename(tmp_path, monkeypatch, expected):
    """The planted fault: the folder is emptied first, and written in place."""

    def careless(folder, state, meta, best=None):
        checkpoint.shutil.rmtree(folder, ignore_errors=True)
        previous = checkpoint.previous_of(folder)
        checkpoint.shutil.rmtree(previous, ignore_errors=True)
        save(previous, state, meta)
        checkpoint.os.rename(previous, folder)

    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", careless)
    found = []
    for out in killed_at_every_deed(3, tmp_path):
        try:
            found.append(saved_step(out))
        except BadInput:
            found.append(None)
    print("steps found saved:", found)
    assert None in found
