"""A traffic light's agents beside the controllers of their field, on days that training never saw.

    python benchmarks/traffic.py RUN [RUN ...] [days=5]     of one recipe, with several seeds
    python benchmarks/traffic.py peer [pairs=5]             an hour here and in sumo-rl, CPU seconds

The table has means over days with their 95 % interval; an agent's interval is over runs, each a mean over days.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from torchstone.envs.make import close_env, make_env
from torchstone.envs.traffic_control import play_baselines, play_hour
from torchstone.parts.modes import eval_mode
from torchstone.runs.load import load_run
from torchstone.tasks.rl.traffic import agent_choice, interval, table

FIRST_DAY = 30_011
MEASURES = ("waiting", "stopped", "arrived", "pending")

PEER = """
import os, sys, time
sys.stdout, out = open(os.devnull, "w"), sys.stdout
import sumo_data
os.environ["SUMO_HOME"], os.environ["LIBSUMO_AS_TRACI"] = sumo_data.__path__[0], "quiet"
import numpy as np
import sumolib
sumolib.checkBinary = lambda name, *rest: name  # libsumo takes the place of the program
import sumo_rl
folder = os.path.join(os.path.dirname(sumo_rl.__file__), "nets", "RESCO", "cologne1", "cologne1.")
env = sumo_rl.SumoEnvironment(folder + "net.xml", folder + "rou.xml", single_agent=True, begin_time=25200,
                              num_seconds=3600, sumo_warnings=False, additional_sumo_cmd="--no-step-log")
generator, firsts = np.random.default_rng(0), []
for hour in range(3):
    observation, _ = env.reset(seed=1) if hour == 0 else env.reset()
    signal, is_over, waiting, wanted, dropped = env.traffic_signals[env.ts_ids[0]], False, [], 0, 0
    began = time.process_time()
    actions = np.random.default_rng(0)
    while not is_over:
        action, before = int(actions.integers(4)), signal.green_phase
        observation, _, _, is_over, info = env.step(action)
        waiting.append(info["system_mean_waiting_time"])
        wanted += action != before
        dropped += action != before and signal.green_phase != action
    firsts.append((np.mean(waiting), dropped, wanted, time.process_time() - began))
print(*(" ".join(map(str, each)) for each in firsts), sep="\\n", file=out)
"""


def compare_runs(folders: list[str], days: int) -> None:
    began, baselines, agents = time.process_time(), {}, []
    runs = [load_run(Path(folder)) for folder in folders]
    spec = runs[0][1]["env"]["spec"]
    env, _ = make_env(spec, (), None)
    for day in range(days):
        for name, hour in play_baselines(env.unwrapped, FIRST_DAY + day).items():
            baselines.setdefault(name, []).append(hour)
    for folder, (model, *_) in zip(folders, runs, strict=True):
        with eval_mode(model):
            hours = [play_hour(env, agent_choice(model), FIRST_DAY + day).measures for day in range(days)]
        agents.append({key: statistics.fmean(hour[key] for hour in hours) for key in MEASURES})
        print(f"{folder}: {agents[-1]}", flush=True)
    close_env(env)
    print(
        f"{spec}, {days} days, {len(runs)} runs; {time.process_time() - began:.0f} CPU seconds without SUMO's"
    )
    cells = [
        interval([agent[key] for agent in agents], digits)
        for key, digits in zip(MEASURES, (2, 1, 0, 0), strict=True)
    ]
    lines = table(baselines).splitlines()
    print("\n".join([*lines[:2], f"| agent, over {len(runs)} seeds | {' | '.join(cells)} |", *lines[2:]]))


def children() -> float:
    return sum(os.times()[2:4])


def compare_speed(pairs: int) -> None:
    """CPU seconds of an hour with random actions, SUMO's included; the same rules of switching take more
    decisions in sumo-rl, 720."""
    ours, theirs = [], []
    for pair in range(pairs):
        began = time.process_time() + children()
        env, _ = make_env("sumo:cologne1", (), None)
        generator = torch.Generator().manual_seed(0)
        env.reset(seed=pair)
        steps, is_over = 0, False
        while not is_over:
            *_, is_over, _ = env.step(int(torch.randint(4, (), generator=generator)))
            steps += 1
        close_env(env)
        ours.append((time.process_time() + children() - began) / steps * 1000)
        answer = subprocess.run(
            [sys.executable, "-c", PEER], capture_output=True, text=True, check=True
        ).stdout
        rows = [list(map(float, line.split())) for line in answer.split("\n") if line]
        theirs.append(rows[0][3] / 720 * 1000)
    print(
        f"ms of CPU a decision: {statistics.median(ours):.2f} here (start included), {statistics.median(theirs):.2f} in sumo-rl; "
        f"ratio {statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}, {pairs} pairs"
    )
    print("sumo-rl, seed given once, the same actions: mean waiting", *(f"{row[0]:.6f}" for row in rows))
    print(f"actions that ask for another phase: {rows[0][2]:.0f}, dropped: {rows[0][1]:.0f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    words = [word for word in sys.argv[1:] if "=" not in word]
    numbers = {key: int(value) for key, value in (word.split("=") for word in sys.argv[1:] if "=" in word)}
    if words == ["peer"]:
        compare_speed(numbers.get("pairs", 5))
    else:
        compare_runs(words, numbers.get("days", 5))
