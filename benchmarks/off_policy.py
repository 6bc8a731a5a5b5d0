"""Environment steps a second of the whole training loop, beside stable-baselines3: same network, same settings.

    python benchmarks/off_policy.py [--system dqn] [--pairs 7] [--updates 6] [--hidden 256,256]

Both learn in one process, in turn, so that what else the machine does falls on either side alike; the figure
is the median of the ratios, pair by pair. Beside it stand the seconds of one core that a step took, and the
share of ours that is the network's own arithmetic: matrix products of the same shapes and number, timed.
"""

import argparse
import dataclasses
import importlib
import itertools
import statistics
import time
from typing import Any

import torch


def theirs(system: str, recipe: Any) -> Any:
    """stable-baselines3's algorithm with the recipe's settings, past its random steps; how to let it learn."""
    import stable_baselines3
    from stable_baselines3.common.logger import configure

    options: dict[str, Any] = {
        "learning_rate": recipe.lr, "buffer_size": recipe.memory, "learning_starts": recipe.first,
        "batch_size": recipe.batch, "gamma": recipe.gamma, "train_freq": recipe.length,
        "gradient_steps": recipe.gradients, "device": "cpu", "seed": 0,
        "policy_kwargs": {"net_arch": list(recipe.hidden)},
    }  # fmt: skip
    if system == "dqn":
        options |= {
            "target_update_interval": recipe.target * recipe.length,
            "exploration_final_eps": recipe.epsilon,
            "exploration_fraction": 1e-9,
            "max_grad_norm": recipe.norm,
        }
        model = stable_baselines3.DQN("MlpPolicy", recipe.data, **options)
    else:
        import numpy as np
        from stable_baselines3.common.noise import NormalActionNoise

        noise = NormalActionNoise(np.zeros(1), recipe.sigma * np.ones(1))
        model = stable_baselines3.DDPG(
            "MlpPolicy", recipe.data, tau=recipe.tau, action_noise=noise, **options
        )
    model.set_logger(configure(None, []))
    model.learn(recipe.first + 3 * recipe.length)
    return lambda n: model.learn(n * recipe.length, reset_num_timesteps=False)


def arithmetic(recipe) -> float:
    """Seconds of one core that the products of one DQN gradient take: forward twice, back once."""
    widths = [4, *recipe.hidden, 2]
    pairs = list(itertools.pairwise(widths))
    x = [torch.randn(recipe.batch, w) for w in widths]
    w = [torch.randn(b, a) for a, b in pairs]

    def once() -> None:
        for k in range(len(pairs)):
            torch.mm(x[k], w[k].t()), torch.mm(x[k], w[k].t())
            torch.mm(x[k + 1].t(), x[k])
            if k:
                torch.mm(x[k + 1], w[k])

    times = []
    for _ in range(20):
        began = time.process_time()
        for _ in range(20):
            once()
        times.append((time.process_time() - began) / 20)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="dqn", choices=["dqn", "ddpg"])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--updates", type=int, help="in each half of a pair (default: 6, ddpg 40)")
    parser.add_argument("--hidden", help="other widths, such as 256,256")
    args = parser.parse_args()
    updates = args.updates or {"dqn": 6, "ddpg": 40}[args.system]
    module = importlib.import_module(f"torchstone.systems.reinforcement.{args.system}")
    recipe = dataclasses.replace(next(iter(module.RECIPES.values())), device="cpu", n=1)
    if args.hidden:
        recipe = dataclasses.replace(recipe, hidden=tuple(map(int, args.hidden.split(","))))
    if args.system == "dqn":
        recipe = dataclasses.replace(recipe, explore=1, anneal=False)
    run = next(module.build(recipe))

    def own(n: int) -> None:
        for _ in range(n):
            run.update(next(run.stream))

    other = theirs(args.system, recipe)
    own(3)
    print(f"{args.system} on {recipe.data}, {torch.get_num_threads()} threads")
    walls, cores, each = [], [], []
    frames = updates * recipe.length
    for _ in range(args.pairs):
        pair = []
        for learn in (own, other):
            wall, core = time.perf_counter(), time.process_time()
            learn(updates)
            pair.append((time.perf_counter() - wall, time.process_time() - core))
        (wall, core), (their_wall, their_core) = pair
        walls.append(their_wall / wall), cores.append(their_core / core), each.append(core)
        print(
            f"ours {frames / wall:7.0f} steps a second, theirs {frames / their_wall:7.0f}: "
            f"{walls[-1]:.2f}; of one core {frames / core:.0f} and {frames / their_core:.0f}: "
            f"{cores[-1]:.2f}"
        )
    print(
        f"median {statistics.median(walls):.2f} times as fast by the clock, "
        f"{statistics.median(cores):.2f} by seconds of one core"
    )
    if args.system == "dqn":
        share = arithmetic(recipe) * updates * recipe.gradients / statistics.median(each)
        print(f"{100 * share:.0f} % of ours is matrix products")


if __name__ == "__main__":
    main()
