"""CPU time of starting: `import torchstone`, `list` and `--help`, beyond the interpreter's own.

python benchmarks/start.py
"""

import resource
import statistics
import subprocess
import sys

RUNS = 15


def cpu(*words: str) -> float:
    """User and system seconds of one fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    cases = {
        "import torchstone": (["-c", "import torchstone"], 0.05),
        "torchstone list": (["-m", "torchstone", "list"], 0.5),
        "torchstone --help": (["-m", "torchstone", "--help"], 0.5),
        "torchstone train --help": (["-m", "torchstone", "train", "--help"], 0.5),
    }
    for name, (words, target) in cases.items():
        beyond = sorted(cpu(*words) - cpu("-c", "pass") for _ in range(RUNS))
        print(
            f"{name:<26} median {statistics.median(beyond) * 1e3:6.1f} ms beyond the interpreter's start, "
            f"{beyond[0] * 1e3:.1f} to {beyond[-1] * 1e3:.1f}, {RUNS} pairs (target ≤ {target * 1e3:.0f} ms)"
        )


if __name__ == "__main__":
    main()
