"""What the laws do in a process of its own.

child.py run STEP FAULT WORDS…    the command line, killed at STEP (0: not), with a fault planted (-: none)
child.py compiled BACKEND NAME…   law 5, where no import hook has wrapped the functions
"""

import os
import signal
import sys
import time

import torch

torch.set_num_threads(1)


def run(step: str, fault: str, *words: str) -> int:
    from torchstone.cli import main
    from torchstone.engine import meter

    plain = meter.Meter.add

    def add(self, now, metrics):
        if now == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, now, metrics)

    meter.Meter.add = add
    if fault != "-":
        import faults

        getattr(faults, fault)(setattr)
    return main(list(words))


def compiled(backend: str, *names: str) -> int:
    from laws import eager_is_compiled

    from torchstone import systems

    for name in names:
        began = time.perf_counter()
        eager_is_compiled(systems.find(name)[0], backend=backend)
        print(f"{name}: {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit({"run": run, "compiled": compiled}[sys.argv[1]](*sys.argv[2:]))
