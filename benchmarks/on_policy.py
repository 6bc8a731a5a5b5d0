"""Environment steps a second of the whole training loop, beside stable-baselines3: same network, same settings.

    python benchmarks/on_policy.py [--system ppo] [--pairs 7] [--rollouts 8]

Both learn CartPole in one process, in turn, so that what else the machine does falls on either side alike;
the figure is the median of the ratios, pair by pair. Beside it stand the seconds of one core that a step
took, of which waiting is no part, and the share of ours that is the update rather than the rollout.
"""

import argparse
import dataclasses
import importlib
import statistics
import time

import torch


def theirs(kind: str, recipe):
    """stable-baselines3's algorithm with the recipe's settings, and how to let it learn `n` rollouts."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure

    options = {}
    if kind == "PPO":
        options = {"n_epochs": recipe.epochs, "batch_size": recipe.batch, "clip_range": recipe.clip}
    sizes = list(recipe.hidden)
    model = getattr(stable_baselines3, kind)(
        "MlpPolicy", make_vec_env(recipe.data, recipe.worlds, seed=0), n_steps=recipe.length,
        gamma=recipe.gamma, gae_lambda=recipe.lam, ent_coef=recipe.entropy, vf_coef=recipe.value,
        max_grad_norm=recipe.norm, learning_rate=recipe.lr, device="cpu", seed=0,
        policy_kwargs={"net_arch": {"pi": sizes, "vf": sizes}}, **options,
    )  # fmt: skip
    model.set_logger(configure(None, []))
    frames = recipe.worlds * recipe.length
    return lambda n: model.learn(n * frames, reset_num_timesteps=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="ppo", choices=["ppo", "a2c"])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rollouts", type=int, help="in each half of a pair (default: 8, a2c 100)")
    args = parser.parse_args()
    rollouts = args.rollouts or {"ppo": 8, "a2c": 100}[args.system]
    module = importlib.import_module(f"torchstone.systems.reinforcement.{args.system}")
    recipe = dataclasses.replace(module.RECIPES["cartpole"], device="cpu", anneal=False)
    run = next(module.build(recipe))
    waited = [0.0]

    def own(n: int) -> None:
        for _ in range(n):
            began = time.process_time()
            batch = next(run.stream)
            waited[0] += time.process_time() - began
            run.update(batch)

    other = theirs(args.system.upper(), recipe)
    own(3), other(3)
    print(f"{args.system} on {recipe.data}, {torch.get_num_threads()} threads")
    walls, cores, shares = [], [], []
    frames = rollouts * recipe.worlds * recipe.length
    for _ in range(args.pairs):
        pair = []
        for learn in (own, other):
            waited[0], wall, core = 0.0, time.perf_counter(), time.process_time()
            learn(rollouts)
            pair.append((time.perf_counter() - wall, time.process_time() - core))
            if learn is own:
                shares.append(1 - waited[0] / pair[0][1])
        (wall, core), (their_wall, their_core) = pair
        walls.append(their_wall / wall), cores.append(their_core / core)
        print(
            f"ours {frames / wall:7.0f} steps a second, theirs {frames / their_wall:7.0f}: "
            f"{walls[-1]:.2f}; of one core {frames / core:.0f} and {frames / their_core:.0f}: "
            f"{cores[-1]:.2f}"
        )
    print(
        f"median {statistics.median(walls):.2f} times as fast by the clock, "
        f"{statistics.median(cores):.2f} by seconds of one core; "
        f"{100 * statistics.median(shares):.0f} % of ours is the update"
    )


if __name__ == "__main__":
    main()
