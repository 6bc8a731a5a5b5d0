"""What the laws do in a process of its own, where no import hook has wrapped the functions.

subprocess_entry.py observed FAULT FOLDER STEP SYSTEM WORDS…   a watched training, as `smoke_runs.py` has it
subprocess_entry.py killed FAULT RUN STEP SYSTEM WORDS…        train into RUN, and be killed at STEP
subprocess_entry.py resumed FAULT RUN                          resume that
subprocess_entry.py compiled FAULT BACKEND NAME…               law 5
subprocess_entry.py serve                                      fork a process for each such line of words

FAULT is a function of `faults.py`, or -. WORDS go to `torchstone train SYSTEM/smoke`.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.append(str(Path(__file__).parents[1]))


def observed(folder: str, step: str, name: str, *words: str) -> int:
    import smoke_runs

    from torchstone import systems
    from torchstone.cli.main import main

    whole, cut = Path(folder, "whole"), Path(folder, "cut")
    entry, observers = systems.find(name)[0], []
    entry.module().build = smoke_runs.observe_build(entry, observers)

    def copy_once() -> None:
        if not cut.exists():
            shutil.copytree(whole, cut)

    at_step(int(step), copy_once)
    code = main(["train", f"{name}/smoke", *words, "--out", str(whole)])
    record = {"stages": [observer.record() for observer in observers]}
    Path(folder, "record.json").write_text(json.dumps(record, indent=1))
    return code


def killed(folder: str, step: str, name: str, *words: str) -> int:
    from torchstone.cli.main import main

    at_step(int(step), lambda: os.kill(os.getpid(), signal.SIGKILL))
    return main(["train", f"{name}/smoke", *words, "--out", folder])


def resumed(folder: str) -> int:
    from torchstone.cli.main import main

    return main(["resume", folder])


def compiled(backend: str, *names: str) -> int:
    from laws import eager_is_compiled

    from torchstone import systems

    for name in names:
        began = time.perf_counter()
        eager_is_compiled(systems.find(name)[0], backend=backend)
        print(f"{name}: {time.perf_counter() - began:.1f} s")
    return 0


def at_step(step: int, do: Callable[[], None]) -> None:
    """Have something done after the update of that step, before anything of it is written."""
    from torchstone.engine import meter

    plain = meter.Meter.add

    def add(self, now, metrics):
        if now == step:
            do()
        plain(self, now, metrics)

    meter.Meter.add = add


def plant(fault: str) -> None:
    if fault != "-":
        import faults

        getattr(faults, fault)()


def without_pictures() -> None:
    """Drawing comes after the last checkpoint, and takes longer than a smoke run."""
    from torchstone.runs import folder

    plain = folder.write_result

    def finish(path, system, recipe, run, steps):
        run.report = None
        plain(path, system, recipe, run, steps)

    folder.write_result, folder.draw_curves = finish, lambda *_: None


def run(words: list[str]) -> int:
    what, fault, *arguments = words
    plant(fault)
    if what != "compiled":
        without_pictures()
    commands = {"observed": observed, "killed": killed, "resumed": resumed, "compiled": compiled}
    return commands[what](*arguments)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        import fork_server

        sys.exit(fork_server.serve(run))
    sys.exit(run(sys.argv[1:]))
