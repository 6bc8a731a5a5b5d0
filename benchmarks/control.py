"""What stable-baselines3 reaches on a recipe's environment in as many steps, evaluated as our runs are.

    python benchmarks/control.py ppo/hopper [--seeds 0 1] [--steps N]

Its settings are those its model zoo tuned for the algorithm (PPO: ours, which are its defaults with
normalised observations and rewards; DDPG: 400 and 300 units, a rate of 1e-3, Gaussian noise of 0.1, 10,000
steps at random first). The figure is the mean return of 20 greedy episodes; ours stands in `records/`.
"""

import argparse
import statistics
import time

import gymnasium
import numpy as np
import torch

from torchstone.runs.recipes import recipe_of


def ppo(recipe, seed: int):
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    envs = make_vec_env(recipe.data, recipe.num_envs, seed=seed)
    if recipe.normalize:
        envs = VecNormalize(envs, gamma=recipe.gamma)
    sizes = list(recipe.hidden)
    return PPO(
        "MlpPolicy",
        envs,
        n_steps=recipe.num_steps,
        batch_size=recipe.batch_size,
        n_epochs=recipe.epochs,
        gamma=recipe.gamma,
        gae_lambda=recipe.gae_lambda,
        clip_range=recipe.clip_coef,
        ent_coef=recipe.ent_coef,
        vf_coef=recipe.vf_coef,
        max_grad_norm=recipe.max_grad_norm,
        device="cpu",
        seed=seed,
        learning_rate=(lambda left: recipe.lr * left) if recipe.anneal_lr else recipe.lr,
        policy_kwargs={"net_arch": {"pi": sizes, "vf": sizes}},
    )


def ddpg(recipe, seed: int):
    from stable_baselines3 import DDPG
    from stable_baselines3.common.noise import NormalActionNoise

    env = gymnasium.make(recipe.data)
    count = env.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(count), 0.1 * np.ones(count))
    return DDPG(
        "MlpPolicy",
        env,
        learning_starts=10_000,
        learning_rate=1e-3,
        action_noise=noise,
        policy_kwargs={"net_arch": [400, 300]},
        gamma=recipe.gamma,
        device="cpu",
        seed=seed,
    )


def evaluate(model, name: str, episodes: int) -> list[float]:
    """Returns of greedy episodes, observations normalised as in training."""
    env, returns = gymnasium.make(name), []
    scaler = model.get_vec_normalize_env()
    for episode in range(episodes):
        observation, _ = env.reset(seed=20_011 + episode)
        total, done = 0.0, False
        while not done:
            normalized = observation if scaler is None else scaler.normalize_obs(observation)
            action, _ = model.predict(normalized, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="SYSTEM/RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="of the environment (default: the recipe's)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    entry, _, recipe = recipe_of(args.name, {})
    steps = args.steps or recipe.total_timesteps
    means = []
    for seed in args.seeds:
        model, began = {"ppo": ppo, "ddpg": ddpg}[entry.name](recipe, seed), time.monotonic()
        worked = time.process_time()
        model.learn(steps)
        spent = time.monotonic() - began, time.process_time() - worked
        returns = evaluate(model, recipe.data, recipe.eval_episodes)
        means.append(statistics.fmean(returns))
        print(
            f"stable-baselines3 {entry.name} {recipe.data} seed {seed}: {steps:,} steps, return "
            f"{means[-1]:.1f} ± {statistics.stdev(returns):.1f}, {spent[0]:.0f} s, {spent[1]:.0f} s "
            "of a core",
            flush=True,
        )
    print(f"mean of {len(means)} seeds: {statistics.fmean(means):.1f}")


if __name__ == "__main__":
    main()
