#!/usr/bin/env bash
# sumo-rl's environment takes an action every 5 s. One that comes within yellow_time + min_green = 7 s of a switch is
# not carried out, not delayed and not reported: `step` answers as ever, and no mask says so. And a seed that is
# given to `reset` once, as Gymnasium's interface asks for, decides on every later episode: each is the same day.
#
# An agent that chooses another phase at each decision gets half of its wishes; its replay buffer holds transitions of
# actions that never happened. It trains on one day, and whoever tests it with the same environment tests on that day.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet sumo-rl==1.4.5 libsumo==1.28.0 traci==1.28.0 sumolib==1.28.0 sumo-data==1.28.0 \
  gymnasium==1.4.0 pettingzoo==1.27.0 pandas==3.1.1 numpy==2.4.6
venv/bin/python -I - <<'PY'
import os
import sys
from importlib.metadata import version

import sumo_data

os.environ["SUMO_HOME"], os.environ["LIBSUMO_AS_TRACI"] = sumo_data.__path__[0], "quiet"
import numpy as np
import sumolib

sumolib.checkBinary = lambda name, *rest: name  # libsumo is in the place of the program
import sumo_rl

print(f"sumo-rl {version('sumo-rl')}, libsumo {version('libsumo')}, gymnasium {version('gymnasium')}")
folder = os.path.join(os.path.dirname(sumo_rl.__file__), "nets", "RESCO", "cologne1", "cologne1.")
env = sumo_rl.SumoEnvironment(
    folder + "net.xml",
    folder + "rou.xml",
    single_agent=True,
    begin_time=25200,
    num_seconds=600,
    sumo_warnings=False,
    additional_sumo_cmd="--no-step-log true",
)


def episode(phase_of_decision, **reset):
    """Observations, and how many of the phases that were asked for were green in the end."""
    observations, asked, granted = [env.reset(**reset)[0]], 0, 0
    signal, is_over, t = env.traffic_signals[env.ts_ids[0]], False, 0
    while not is_over:
        phase = phase_of_decision(t)
        asked += phase != signal.green_phase
        before = signal.green_phase
        observation, _, _, is_over, info = env.step(phase)
        granted += phase == signal.green_phase != before
        observations.append(observation)
        t += 1
    reported = [key for key in info if "mask" in key or "valid" in key or "dropped" in key]
    return np.stack(observations), asked, granted, reported


_, asked, granted, reported = episode(lambda t: t % 4, seed=1)
print("expected: a phase that is asked for becomes green, or the environment says that it does not")
print(f"asked for another phase {asked} times, granted {granted}; reported in info: {reported or 'nothing'}")
days = [episode(lambda t: t // 3 % 4, **reset)[0] for reset in ({"seed": 1}, {}, {}, {"seed": 2})]
print("expected: reset(seed=1), reset(), reset() are three days of one sequence")
same = [np.array_equal(days[0], each) for each in days[1:]]
print(f"equal to the first day: the second {same[0]}, the third {same[1]}; with seed=2 {same[2]}")
if granted == asked or reported:
    sys.exit("CHANGED: no action is dropped silently")
if not (same[0] and same[1]) or same[2]:
    sys.exit("CHANGED: episodes after a seeded one are other days")
print("confirmed: actions are dropped without a word, and one seed is one day for ever")
PY
