"""At how many steps of the environment runs first reach a return in validation, system by system, and one picture.

    python benchmarks/real_steps.py RUN … [--level -200] [--out steps.png]

Runs are folders that `torchstone train` left, of several systems and seeds on one environment. Validation must
have been of equally many episodes: `--eval-every N` sets how often it was. The picture has each system's return
over steps of the environment, of three seeds and more as their interquartile mean.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from torchstone import api
from torchstone.plots.compare_runs import curve_over_env_steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--level", type=float, nargs="+", default=[-200.0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    curves = defaultdict(list)
    for folder in args.runs:
        system, _, _ = api.read_recipe(folder)
        curves[system.name].append(curve_over_env_steps(folder, "return"))
    for level in args.level:
        for system, each in curves.items():
            first = [next((step for step, value in curve if value >= level), None) for curve in each]
            reached = [step for step in first if step is not None]
            mean = f", mean {statistics.mean(reached):,.0f}" if reached else ""
            print(f"{system}: {level:g} after {first} steps{mean}; {len(reached)} of {len(first)} runs")
    if args.out:
        api.compare(args.runs, out=args.out)


if __name__ == "__main__":
    main()
