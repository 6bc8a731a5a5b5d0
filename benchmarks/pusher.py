"""Pusher: the return of SAC beside stable-baselines3's with the same settings, after the same number of steps.

    python benchmarks/pusher.py [--recipe pusher] [--seeds 0,1,2]

Both play 100 greedy episodes with their last weights, from the same initial states. Seconds are CPU time of
training. An agent that does nothing and one that acts at random stand beside them.
"""

import argparse
import dataclasses
import statistics
import time

import numpy as np
import torch
from off_policy import make_sb3_model

from torchstone.engine.run import fit
from torchstone.systems.reinforcement import sac
from torchstone.tasks.rl.evaluate import TEST, PolicyEvaluator


class Theirs:
    """stable-baselines3's agent as one of ours."""

    def __init__(self, algorithm):
        self.algorithm = algorithm

    def greedy(self, observation):
        return torch.from_numpy(self.algorithm.predict(observation.numpy(), deterministic=True)[0])


class Fixed:
    """Actions without regard to what is observed: none, or uniform within ±`reach`."""

    def __init__(self, num_actions: int, reach: float):
        self.num_actions, self.reach, self.generator = num_actions, reach, np.random.default_rng(0)

    def greedy(self, observation):
        actions = self.generator.uniform(-self.reach, self.reach, (len(observation), self.num_actions))
        return torch.from_numpy(actions.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="pusher")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, help="environment steps after the random ones")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = dataclasses.replace(sac.RECIPES[args.recipe], device="cpu", record_video=False)
    recipe = dataclasses.replace(recipe, total_timesteps=args.steps or recipe.total_timesteps)
    evaluator = PolicyEvaluator(recipe.data, recipe.wrappers, recipe.max_episode_steps, 100, "cpu")

    def mean_return(agent) -> float:
        network = agent if isinstance(agent, torch.nn.Module) else torch.nn.Module()
        if network is not agent:
            network.greedy = agent.greedy
        return statistics.fmean(evaluator(network, TEST))

    differences = []
    for seed in map(int, args.seeds.split(",")):
        own = dataclasses.replace(recipe, seed=seed)
        began = time.process_time()
        run = next(sac.build(own))
        # no validation: the last weights are compared
        options = {"evaluate": lambda: {"return": 0.0}, "evaluate_all": None, "test": None, "report": None}
        fit(dataclasses.replace(run, **options), quiet=True)
        own_seconds = time.process_time() - began
        steps = recipe.updates * recipe.num_steps * recipe.num_envs + recipe.learning_starts
        began = time.process_time()
        algorithm = make_sb3_model("sac", own)
        algorithm.learn(steps)
        their_seconds = time.process_time() - began
        ours, theirs = mean_return(run.state["model"]), mean_return(Theirs(algorithm))
        differences.append(ours - theirs)
        print(
            f"seed {seed}: {steps} steps; ours {ours:.2f} in {own_seconds:.0f} s, stable-baselines3 {theirs:.2f} "
            f"in {their_seconds:.0f} s",
            flush=True,
        )
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    print(f"difference {statistics.fmean(differences):.2f} ± {spread:.2f} over {len(differences)} seeds")
    high = float(run.state["model"].high.max())
    for name, reach in (("no action", 0.0), ("random actions", high)):
        print(f"{name} {mean_return(Fixed(len(run.state['model'].high), reach)):.2f}")


if __name__ == "__main__":
    main()
