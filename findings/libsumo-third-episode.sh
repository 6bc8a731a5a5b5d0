#!/usr/bin/env bash
# SUMO is deterministic: the same files, options and seed give the same traffic, and libsumo may start one simulation
# after another in a process. But something of the earlier ones stays: an hour that was the same twice is another one
# at a later start. Short simulations do not show it, for it begins with one vehicle.
#
# It matters where a training is repeated, resumed or judged by seed: a day depends on how many days the process had
# before it. A process for each episode is right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet libsumo==1.28.0 traci==1.28.0 sumo-data==1.28.0
venv/bin/pip install --quiet --no-deps sumo-rl==1.4.5  # for its scenario alone
venv/bin/python -I - <<'PY'
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec

os.environ["LIBSUMO_AS_TRACI"] = "quiet"
import libsumo

folder = find_spec("sumo_rl").submodule_search_locations[0]
config = os.path.join(folder, "nets", "RESCO", "cologne1", "cologne1.sumocfg")
print(f"libsumo {version('libsumo')}, the hour of RESCO's cologne1 under its own fixed program")
totals = []
for _ in range(6):
    options = ["--seed", "12345", "--no-step-log", "true", "--no-warnings", "true", "--time-to-teleport", "-1"]
    libsumo.start(["sumo", "-c", config, *options])
    total = 0.0
    while libsumo.simulation.getTime() < libsumo.simulation.getEndTime():
        libsumo.simulationStep()
        total += sum(map(libsumo.vehicle.getWaitingTime, libsumo.vehicle.getIDList()))
    totals.append(total)
    libsumo.close()
print("expected: the same sum of waiting times in all hours of one seed")
print("vehicle-seconds:", *totals)
if len(set(totals)) == 1:
    sys.exit("CHANGED: all hours of a seed are the same")
print("confirmed: an hour depends on those that the process simulated before")
PY
