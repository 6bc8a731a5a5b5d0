"""Data-centre cooling: trained agents beside fixed set-points and rule-based controllers, in weather that training
never saw.

    python benchmarks/cooling.py RUN [RUN …] [--out runs/cooling] [--sweep-episodes 14]

First the fixed set-points are swept in the training weather, two days an episode: of the thermostat alone, with the
model's own manager of the supply air, and of thermostat and supply air. The best of each is the one of least HVAC
energy among those that are in the band for no less time than 24 °C. It, 24 °C, the rule-based controllers, supply
reset with the environment's interlock too, and the runs' agents, each in the environment of its training, then play
the same weeks of the test weather. `cooling.json` has all numbers, `energy.png` the controllers, `week.png` a week of
the first run. Differences are paired by week; an agent's are means over its seeds.
"""

import argparse
import itertools
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from torchstone.envs.energyplus import FIXED, INTERLOCK
from torchstone.envs.make import SIDE_BY_SIDE, in_split
from torchstone.metrics.paired import margin
from torchstone.plots.cooling import energy_against_band
from torchstone.runs.load import load_run
from torchstone.tasks.rl.cooling import BandIntegral, FixedSetpoints, SupplyReset, draw_week, thermostat_alone
from torchstone.tasks.rl.evaluate import TEST, PolicyEvaluator

SPEC = "energyplus:2zone_datacenter"
SWEEP = 30_011  # seed of the weeks of the sweep
THERMOSTATS = (24.0, 20.0, 22.0, 25.0, 25.5, 26.0, 26.5)
PAIRS = (*itertools.product((24.0, 25.5, 26.8), (12.0, 14.0, 16.0, 16.25)), (20.0, 12.0), (26.8, 18.0))
RESET = "supply reset (Guideline 36)"
KEYS = ("hvac_kilowatts", "it_kilowatts", "in_band")


def weeks(controller, spec: str, seed: int, episodes: int) -> list[dict[str, float]]:
    """What each week says of itself, in an order that does not depend on the controller."""
    evaluator = PolicyEvaluator(spec, (), None, episodes, "cpu", num_envs=SIDE_BY_SIDE)
    try:
        evaluator(controller, seed)
        return evaluator.episodes_measured
    finally:
        if evaluator.envs is not None:
            evaluator.envs.close()


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(row[key] for row in rows) for key in KEYS}


def best(rows: dict[str, dict[str, float]], at_least: float) -> str:
    """The least energy among those in the band for no less time."""
    fit = [name for name, row in rows.items() if row["in_band"] >= at_least]
    return min(fit, key=lambda name: rows[name]["hvac_kilowatts"])


def line(name: str, row: dict[str, float], fixed: dict[str, float]) -> str:
    change = 100 * (row["hvac_kilowatts"] / fixed["hvac_kilowatts"] - 1)
    total, before = (each["hvac_kilowatts"] + each["it_kilowatts"] for each in (row, fixed))
    return (
        f"{name:34s} HVAC {row['hvac_kilowatts']:6.2f} kW ({change:+6.1f} %)  in band {100 * row['in_band']:6.2f} %  "
        f"with the servers {total:6.1f} kW ({100 * (total / before - 1):+.1f} %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/cooling"))
    parser.add_argument("--sweep-episodes", type=int, default=14)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--sweep-only", action="store_true", help="stop before the test weather")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "sweep.json"
    if not file.exists():
        sweep = {}
        for setpoints in [*((each,) for each in THERMOSTATS), *PAIRS]:
            name = " and ".join(f"{each:g}" for each in setpoints) + " °C"
            spec = f"{SPEC}:thermostat" if len(setpoints) == 1 else SPEC
            sweep[name] = mean(weeks(FixedSetpoints(*setpoints), spec, SWEEP, args.sweep_episodes))
            print(line(name, sweep[name], sweep.get("24 °C", sweep[name])), flush=True)
        file.write_text(json.dumps(sweep, indent=1) + "\n")
    sweep = json.loads(file.read_text())
    singles = {name: row for name, row in sweep.items() if " and " not in name}
    pairs = {name: row for name, row in sweep.items() if " and " in name}
    least = singles["24 °C"]["in_band"]
    chosen = best(singles, least), best(pairs, least)
    print(
        f"in the training weather, in the band no less than 24 °C: best thermostat {chosen[0]}, pair {chosen[1]}"
    )
    if args.sweep_only:
        return
    test = in_split(SPEC, "test")
    controllers = {
        f"fixed {FIXED:g} °C": (FixedSetpoints(FIXED), "fixed"),
        f"best fixed thermostat, {chosen[0]}": (FixedSetpoints(float(chosen[0][:-3])), "fixed"),
        f"best fixed pair, {chosen[1]}": (
            FixedSetpoints(*map(float, chosen[1][:-3].split(" and "))),
            "fixed",
        ),
        "band integral (thermostat)": (BandIntegral(), "rule-based"),
        RESET: (SupplyReset(), "rule-based"),
        f"{RESET}, interlock": (SupplyReset(), "rule-based"),
    }
    specs = dict.fromkeys(controllers, test)
    for name in list(controllers)[:2] + list(controllers)[3:4]:
        specs[name] = thermostat_alone(test)
    specs[f"{RESET}, interlock"] = in_split(f"{SPEC}:{INTERLOCK}", "test")
    for run in args.runs:
        model, metadata, _ = load_run(run, "cpu")
        controllers[run.name], specs[run.name] = (model, "agent"), in_split(metadata["env"]["spec"], "test")
    found, points = {}, {}
    for name, (controller, kind) in controllers.items():
        found[name] = weeks(controller, specs[name], TEST, args.episodes)
        row = mean(found[name])
        points[name] = (row["hvac_kilowatts"], row["in_band"], kind)
        print(line(name, row, mean(found[f"fixed {FIXED:g} °C"])), flush=True)
    agents = [found[run.name] for run in args.runs]
    differences = {}
    for name in [name for name in found if agents and name not in {run.name for run in args.runs}]:
        per_week = [
            statistics.fmean(agent[week]["hvac_kilowatts"] for agent in agents) - other["hvac_kilowatts"]
            for week, other in enumerate(found[name])
        ]
        differences[name] = {"kilowatts": statistics.fmean(per_week), "margin": margin(per_week)}
        print(f"agents minus {name}: {statistics.fmean(per_week):+.2f} ± {margin(per_week):.2f} kW a week")
    result = {"sweep": sweep, "test": {name: mean(rows) for name, rows in found.items()}, "weeks": found}
    (args.out / "cooling.json").write_text(
        json.dumps({**result, "differences": differences}, indent=1) + "\n"
    )
    energy_against_band(points, "Weeks of weather that training never saw", args.out / "energy.png")
    if args.runs:
        first = args.runs[0].name
        draw_week(controllers[first][0], specs[first], TEST + 3, args.out / "week.png")


if __name__ == "__main__":
    main()
