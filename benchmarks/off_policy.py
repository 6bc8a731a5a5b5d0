"""Environment steps per second of the whole training loop, beside stable-baselines3 and a plain script: same
network, same settings.

    python benchmarks/off_policy.py [--system dqn] [--recipe cartpole] [--pairs 7] [--updates 6]
        [--hidden 256,256]

All learn in one process, in turn, so that what else the machine does falls on each alike; the figures are
medians of the ratios, round by round. Beside them stand the CPU seconds that a step took, of which
waiting is no part, and the share of ours that is the network's own arithmetic: its passes, as many and as
large as the steps and their gradients need, and nothing else. `--recipe pong` is Atari, from pixels, where
ours has ALE's own vector form and the others the same frames made in Python; all replay buffers hold 10,000
steps.
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

from torchstone.envs.make import gym, make_env, spaces


def make_single_env(recipe: Any) -> Any:
    """One environment for the others: as Gymnasium makes it, or under the recipe's wrappers."""
    if not recipe.wrappers:
        return gym().make(recipe.data)
    return make_env(recipe.data, recipe.wrappers, recipe.max_episode_steps)[0]


def make_sb3_model(system: str, recipe: Any) -> Any:
    """stable-baselines3's algorithm with the recipe's settings."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.noise import NormalActionNoise

    pixels = recipe.data.startswith("ALE/")
    options: dict[str, Any] = {
        "learning_rate": recipe.lr,
        "buffer_size": recipe.buffer_size,
        "learning_starts": recipe.learning_starts,
        "batch_size": recipe.batch_size,
        "gamma": recipe.gamma,
        "train_freq": recipe.num_steps,
        "gradient_steps": recipe.gradient_steps,
        "device": "cpu",
        "seed": recipe.seed,
        "policy_kwargs": {} if pixels else {"net_arch": list(recipe.hidden)},
    }
    envs = make_vec_env(lambda: make_single_env(recipe), recipe.num_envs, seed=recipe.seed)
    if system == "dqn":
        env_steps = recipe.num_steps * recipe.num_envs
        options |= {
            "target_update_interval": recipe.target_update_interval * env_steps,
            "exploration_final_eps": recipe.final_epsilon,
            "exploration_fraction": exploration_fraction(recipe),
            "max_grad_norm": recipe.max_grad_norm or float("inf"),
        }
        policy = "CnnPolicy" if pixels else "MlpPolicy"
        model = stable_baselines3.DQN(policy, envs, **options)
    elif system == "sac":
        model = stable_baselines3.SAC(
            "MlpPolicy", envs, tau=recipe.tau, ent_coef=f"auto_{recipe.init_alpha}", **options
        )
    else:
        action_dim = envs.action_space.shape[0]
        noise = NormalActionNoise(np.zeros(action_dim), recipe.sigma * np.ones(action_dim))
        kind = {"ddpg": stable_baselines3.DDPG, "td3": stable_baselines3.TD3}[system]
        model = kind("MlpPolicy", envs, tau=recipe.tau, action_noise=noise, **options)
    model.set_logger(configure(None, []))
    return model


def exploration_fraction(recipe: Any) -> float:
    """The share of the steps over which ε falls."""
    return min(recipe.exploration_steps / (recipe.learning_starts + recipe.total_timesteps), 1.0)


def make_sb3(system: str, recipe: Any) -> Any:
    """The same after its random steps, as a function of a number of updates."""
    model, env_steps = make_sb3_model(system, recipe), recipe.num_steps * recipe.num_envs
    model.learn(recipe.learning_starts + env_steps)
    return lambda n: model.learn(n * env_steps, reset_num_timesteps=False)


def arithmetic(model: Any, recipe: Any) -> float:
    """Seconds of one core that the passes of DQN's network for one update take: forward at each step that is
    not random, and in each minibatch forward for the target network, and forward and backward."""
    shape = spaces(recipe.data, tuple(recipe.wrappers))[0].shape

    def timed(rows: int, backward: bool) -> float:
        x, times = torch.rand(rows, *shape), []
        for _ in range(10):
            began = time.process_time()
            with torch.set_grad_enabled(backward):
                q = model(x)
                if backward:
                    torch.autograd.grad(q.sum(), list(model.parameters()))
            times.append(time.process_time() - began)
        return min(times)

    acting = recipe.num_steps * (1 - recipe.final_epsilon) * timed(recipe.num_envs, False)
    return acting + recipe.gradient_steps * (timed(recipe.batch_size, False) + timed(recipe.batch_size, True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="dqn", choices=["dqn", "ddpg", "td3", "sac"])
    parser.add_argument("--recipe", help="one of the system's (default: its first)")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--updates", type=int, help="in each part of a round (default: 6 of dqn, else 40)")
    parser.add_argument("--hidden", help="other widths, such as 256,256")
    args = parser.parse_args()
    updates = args.updates or (6 if args.system == "dqn" else 40)
    module = importlib.import_module(f"torchstone.systems.reinforcement.{args.system}")
    recipe = module.RECIPES[args.recipe or next(iter(module.RECIPES))]
    recipe = dataclasses.replace(recipe, device="cpu", n_step=1, anneal_lr=False)
    # few random steps, and a replay buffer that fits in memory three times
    recipe = dataclasses.replace(recipe, learning_starts=min(recipe.learning_starts, 1000))
    if args.hidden:
        recipe = dataclasses.replace(recipe, hidden=tuple(map(int, args.hidden.split(","))))
    if args.system == "dqn":
        recipe = dataclasses.replace(recipe, exploration_steps=1)
    if recipe.wrappers:
        recipe = dataclasses.replace(recipe, buffer_size=10_000)
    compare(module, args.system, recipe, args.pairs, updates)


def compare(module: Any, system: str, recipe: Any, pairs: int, updates: int) -> None:
    run = next(module.build(recipe))

    def own(n: int) -> None:
        for _ in range(n):
            run.update(next(run.stream))

    learners: dict[str, Callable[[int], Any]] = {"ours": own, "stable-baselines3": make_sb3(system, recipe)}
    if system == "dqn":
        learners["plain"] = learner(lambda: make_single_env(recipe), recipe)
    for learn in learners.values():
        learn(2)
    print(f"{system} on {recipe.data}, {torch.get_num_threads()} threads", flush=True)
    env_steps = updates * recipe.num_steps * recipe.num_envs
    walls: dict[str, list[float]] = {name: [] for name in learners}
    cores: dict[str, list[float]] = {name: [] for name in learners}
    each = []
    for _ in range(pairs):
        columns, first = [], (1.0, 1.0)
        for name, learn in learners.items():
            wall, core = time.perf_counter(), time.process_time()
            learn(updates)
            took = time.perf_counter() - wall, time.process_time() - core
            if learn is own:
                first = took
                each.append(took[1] / updates)
            walls[name].append(took[0] / first[0]), cores[name].append(took[1] / first[1])
            step = [env_steps / seconds for seconds in took]
            columns.append(f"{name} {step[0]:.0f} steps per second, {step[1]:.0f} of a core")
        print("; ".join(columns), flush=True)
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
