"""Environment steps a second of the whole training loop, beside stable-baselines3 and a plain script: same
network, same settings.

    python benchmarks/off_policy.py [--system dqn] [--recipe cartpole] [--pairs 7] [--updates 6] [--hidden 256,256]

All learn in one process, in turn, so that what else the machine does falls on each alike; the figures are
medians of the ratios, round by round. Beside them stand the seconds of one core that a step took, of which
waiting is no part, and the share of ours that is the network's own arithmetic: its passes, as many and as
large as the steps and their gradients need, and nothing else. `--recipe pong` is Atari, from pixels, where
ours has ALE's own vector form and the others the same picture made in Python; all remember 10,000 steps.
"""

import argparse
import dataclasses
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from plain_dqn import learner

from torchstone.envs.make import gym, make
from torchstone.envs.vector_env import spaces


def world(recipe: Any) -> Any:
    """One environment, for others than us: as Gymnasium makes it, or under the recipe's wrappers."""
    if not recipe.wrappers:
        return gym().make(recipe.data)
    return make(recipe.data, recipe.wrappers, recipe.limit)[0]


def theirs(system: str, recipe: Any) -> Any:
    """stable-baselines3's algorithm with the recipe's settings, past its random steps; how to let it learn."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.noise import NormalActionNoise

    pixels = recipe.data.startswith("ALE/")
    options: dict[str, Any] = {
        "learning_rate": recipe.lr, "buffer_size": recipe.memory, "learning_starts": recipe.first,
        "batch_size": recipe.batch, "gamma": recipe.gamma, "train_freq": recipe.length,
        "gradient_steps": recipe.gradients, "device": "cpu", "seed": 0,
        "policy_kwargs": {} if pixels else {"net_arch": list(recipe.hidden)},
    }  # fmt: skip
    worlds = make_vec_env(lambda: world(recipe), recipe.worlds, seed=0)
    frames = recipe.length * recipe.worlds
    if system == "dqn":
        options |= {
            "target_update_interval": recipe.target * frames,
            "exploration_final_eps": recipe.epsilon,
            "exploration_fraction": 1e-9,
            "max_grad_norm": recipe.norm or float("inf"),
        }
        policy = "CnnPolicy" if pixels else "MlpPolicy"
        model = stable_baselines3.DQN(policy, worlds, **options)
    else:
        wide = worlds.action_space.shape[0]
        noise = NormalActionNoise(np.zeros(wide), recipe.sigma * np.ones(wide))
        model = stable_baselines3.DDPG("MlpPolicy", worlds, tau=recipe.tau, action_noise=noise, **options)
    model.set_logger(configure(None, []))
    model.learn(recipe.first + frames)
    return lambda n: model.learn(n * frames, reset_num_timesteps=False)


def arithmetic(model: Any, recipe: Any) -> float:
    """Seconds of one core that the passes of DQN's network for one update take: forward at each step that is
    not random, and in each minibatch forward for the copy, and forward and back."""
    shape = spaces(recipe.data, tuple(recipe.wrappers))[0].shape

    def timed(rows: int, back: bool) -> float:
        x, times = torch.rand(rows, *shape), []
        for _ in range(10):
            began = time.process_time()
            with torch.set_grad_enabled(back):
                q = model(x)
                if back:
                    torch.autograd.grad(q.sum(), list(model.parameters()))
            times.append(time.process_time() - began)
        return min(times)

    acting = recipe.length * (1 - recipe.epsilon) * timed(recipe.worlds, False)
    return acting + recipe.gradients * (timed(recipe.batch, False) + timed(recipe.batch, True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="dqn", choices=["dqn", "ddpg"])
    parser.add_argument("--recipe", help="one of the system's (default: its first)")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--updates", type=int, help="in each part of a round (default: 6, ddpg 40)")
    parser.add_argument("--hidden", help="other widths, such as 256,256")
    args = parser.parse_args()
    updates = args.updates or {"dqn": 6, "ddpg": 40}[args.system]
    module = importlib.import_module(f"torchstone.systems.reinforcement.{args.system}")
    recipe = module.RECIPES[args.recipe or next(iter(module.RECIPES))]
    recipe = dataclasses.replace(recipe, device="cpu", n=1, anneal=False)
    # past what is random, and no more remembered than three of them have room for
    recipe = dataclasses.replace(recipe, first=min(recipe.first, 1000))
    if args.hidden:
        recipe = dataclasses.replace(recipe, hidden=tuple(map(int, args.hidden.split(","))))
    if args.system == "dqn":
        recipe = dataclasses.replace(recipe, explore=1)
    if recipe.wrappers:
        recipe = dataclasses.replace(recipe, memory=10_000)
    compared(module, args.system, recipe, args.pairs, updates)


def compared(module: Any, system: str, recipe: Any, pairs: int, updates: int) -> None:
    run = next(module.build(recipe))

    def own(n: int) -> None:
        for _ in range(n):
            run.update(next(run.stream))

    learners: dict[str, Callable[[int], Any]] = {
        "ours": own, "stable-baselines3": theirs(system, recipe),
    }  # fmt: skip
    if system == "dqn":
        learners["plain"] = learner(lambda: world(recipe), recipe)
    for learn in learners.values():
        learn(2)
    print(f"{system} on {recipe.data}, {torch.get_num_threads()} threads", flush=True)
    frames = updates * recipe.length * recipe.worlds
    walls: dict[str, list[float]] = {name: [] for name in learners}
    cores: dict[str, list[float]] = {name: [] for name in learners}
    each = []
    for _ in range(pairs):
        told, first = [], (1.0, 1.0)
        for name, learn in learners.items():
            wall, core = time.perf_counter(), time.process_time()
            learn(updates)
            took = time.perf_counter() - wall, time.process_time() - core
            if learn is own:
                first = took
                each.append(took[1] / updates)
            walls[name].append(took[0] / first[0]), cores[name].append(took[1] / first[1])
            step = [frames / seconds for seconds in took]
            told.append(f"{name} {step[0]:.0f} steps a second, {step[1]:.0f} of a core")
        print("; ".join(told), flush=True)
    for name in list(learners)[1:]:
        print(
            f"median {statistics.median(walls[name]):.2f} times as fast as {name} by the clock, "
            f"{statistics.median(cores[name]):.2f} by seconds of one core"
        )
    if system == "dqn":
        share = arithmetic(run.state["model"], recipe) / statistics.median(each)
        print(f"{100 * share:.0f} % of ours is the network's own passes")


if __name__ == "__main__":
    main()
