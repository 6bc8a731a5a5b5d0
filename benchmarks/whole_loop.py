"""CPU seconds of a whole training, from the command to the last step, beside stable-baselines3: fresh processes,
one after the other, same hyperparameters.

    python benchmarks/whole_loop.py [ppo] [dqn] [--pairs 3]

Ours is `torchstone train`, which writes rows and checkpoints; the other one is the shortest script. Neither
evaluates: that is left out of ours. Starting, importing, and whatever is compiled or traced, count. A figure is
the median of the pairs' ratios; user and system time of the process, one thread.
"""

import argparse
import dataclasses
import importlib
import resource
import statistics
import subprocess
import sys
import tempfile
from typing import Any

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("cartpole", {"total_timesteps": 100_000}),
    "dqn": ("cartpole", {"total_timesteps": 49_000, "n_step": 1, "anneal_lr": False}),
    "sac": ("halfcheetah", {"total_timesteps": 5_000, "learning_starts": 1000}),
    "td3": ("halfcheetah", {"total_timesteps": 5_000, "learning_starts": 1000}),
}


def recipe_of(system: str) -> Any:
    name, changes = CASES[system]
    module = importlib.import_module(f"torchstone.systems.reinforcement.{system}")
    return dataclasses.replace(module.RECIPES[name], device="cpu", record_video=False, **changes)


def ours(system: str) -> None:
    """The command, without evaluation."""
    from torchstone.cli.main import main
    from torchstone.engine import run as engine

    fit = engine.fit

    def fit_only(run: Any, *args: Any, **options: Any) -> Any:
        run.evaluate, run.evaluate_all, run.test, run.report = lambda: {"return": 0.0}, None, None, None
        fit(run, *args, **options)
        raise SystemExit  # that was the last step

    engine.fit = fit_only
    name, changes = CASES[system]
    words = [f"{system}/{name}", "--device", "cpu", "--record-video", "false", "--overwrite"]
    for field, value in changes.items():
        words += [f"--{field.replace('_', '-')}", str(value).lower()]
    with tempfile.TemporaryDirectory() as folder:
        main(["train", *words, "--out", folder])


def theirs(system: str) -> None:
    """stable-baselines3 as its documentation has it."""
    import torch

    torch.set_num_threads(1)
    recipe = recipe_of(system)
    if system == "ppo":
        from on_policy import make_sb3

        make_sb3("PPO", recipe, total=recipe.total_timesteps).learn(recipe.total_timesteps)
    else:
        from off_policy import make_sb3_model

        make_sb3_model(system, recipe).learn(recipe.learning_starts + recipe.total_timesteps)


def cpu_seconds(*words: str) -> float:
    """User and system seconds of one fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", default=["ppo", "dqn"])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--child", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        {"ours": ours, "theirs": theirs}[args.child](*args.systems)
        return
    for system in args.systems:
        ratios = []
        for _ in range(args.pairs):
            seconds = [cpu_seconds(system, "--child", each) for each in ("ours", "theirs")]
            ratios.append(seconds[1] / seconds[0])
            print(f"{system}: ours {seconds[0]:.1f} s, stable-baselines3 {seconds[1]:.1f} s", flush=True)
        print(
            f"{system}: median {statistics.median(ratios):.2f} times as fast, {min(ratios):.2f} to "
            f"{max(ratios):.2f}, {args.pairs} pairs",
            flush=True,
        )


if __name__ == "__main__":
    main()
