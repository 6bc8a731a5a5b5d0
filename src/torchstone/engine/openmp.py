"""How long waiting OpenMP threads spin before they sleep. OpenMP reads it when torch is imported."""

import os
import time
from pathlib import Path

RUNNING = Path("/proc/loadavg")  # Linux: "0.31 0.22 0.18 2/411 9120": 2 run at this moment
LOOKS, PAUSE = 5, 0.004  # seconds between two


def settle() -> None:
    """Let GNU OpenMP's threads sleep early, unless every one of them has a core of its own.

    Awake, a thread goes on at once, which is worth up to 1.8 times the speed on two cores of a virtual
    machine. But where another program wants a core, those awake keep from it the very thread that they
    wait for, and small networks are 10 to 50 times slower. The user's GOMP_SPINCOUNT goes before.
    """
    if "GOMP_SPINCOUNT" not in os.environ and not quiet():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def quiet() -> bool:
    """Whether as many cores are idle as there will be threads; no, where the system does not tell."""
    try:
        looked = [_running() for _ in range(LOOKS)]
        cores = len(os.sched_getaffinity(0))
        threads = int(os.environ.get("OMP_NUM_THREADS", cores))
    except (AttributeError, OSError, ValueError, IndexError):  # no Linux, or another form
        return False
    return sorted(looked)[LOOKS // 2] - 1 + threads <= cores  # one of them is this process


def _running() -> int:
    time.sleep(PAUSE)
    return int(RUNNING.read_text().split()[3].partition("/")[0])
