"""CPU time of starting: `import torchstone`, `list` and `--help`, beyond the interpreter's own; and a whole
training of one step beside `import torch`, in pairs.

python benchmarks/start.py
"""

import resource
import statistics
import subprocess
import sys
import tempfile

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
    with tempfile.TemporaryDirectory() as folder:
        train = ("-m", "torchstone", "train", "lenet5", "--steps", "1", "--out", folder, "--overwrite")
        pairs = [(cpu(*train), cpu("-c", "import torch")) for _ in range(RUNS)]
    ours, torchs = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{'train lenet5 --steps 1':<26} median {ours:.2f} s, import torch {torchs:.2f} s: {ours / torchs:.2f} "
        f"times; of the pairs {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f} "
        "(target ≤ 2)"
    )


if __name__ == "__main__":
    main()
