"""What the laws do in a process of its own, where no import hook has wrapped the functions.

subprocess_entry.py killed STEP FAULT WHOLE CUT WORDS…   train into WHOLE, then into CUT and be killed at STEP
subprocess_entry.py resumed FAULT CUT                    resume that
subprocess_entry.py compiled BACKEND FAULT NAME…         law 5

FAULT is a function of `faults.py`, or -.
"""

import os
import signal
import sys
import time

import torch

torch.set_num_threads(1)


def killed(step: str, fault: str, whole: str, cut: str, *words: str) -> int:
    from torchstone.cli.main import main
    from torchstone.engine import meter

    plant(fault)
    without_pictures()
    code = main(["train", *words, "--out", whole])
    plain = meter.Meter.add

    def add(self, now, metrics):
        if now == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, now, metrics)

    meter.Meter.add = add
    return code or main(["train", *words, "--out", cut])


def resumed(fault: str, cut: str) -> int:
    from torchstone.cli.main import main

    plant(fault)
    without_pictures()
    return main(["resume", cut])


def compiled(backend: str, fault: str, *names: str) -> int:
    from laws import eager_is_compiled

    from torchstone import systems

    plant(fault)
    for name in names:
        began = time.perf_counter()
        eager_is_compiled(systems.find(name)[0], backend=backend)
        print(f"{name}: {time.perf_counter() - began:.1f} s")
    return 0


def plant(fault: str) -> None:
    if fault != "-":
        import faults

        getattr(faults, fault)()


def without_pictures() -> None:
    """Drawing comes after the last checkpoint, and takes longer than a smoke run."""
    from torchstone.runs import folder

    plain = folder.write_result

    def finish(place, system, recipe, run, steps):
        run.report = None
        plain(place, system, recipe, run, steps)

    folder.write_result, folder.draw_curves = finish, lambda *_: None


if __name__ == "__main__":
    does = {"killed": killed, "resumed": resumed, "compiled": compiled}
    sys.exit(does[sys.argv[1]](*sys.argv[2:]))
