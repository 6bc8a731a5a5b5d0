"""Environment steps per second of the whole training loop, beside stable-baselines3 and a plain script: same
network, same settings.

    python benchmarks/on_policy.py [--system ppo] [--recipe cartpole] [--pairs 7] [--rollouts 8]
        [--num-steps N]
    python benchmarks/on_policy.py --until 475 [--seeds 0 1 2]

All learn in one process, in turn, so that what else the machine does falls on each alike; the figures are
medians of the ratios, round by round. Beside them stand the CPU seconds that a step took, of which
waiting is no part, and the shares of ours that are the update rather than the rollout, and the network's
own arithmetic: its passes, as many and as large as a rollout and its update need, and nothing else.
`--recipe pong` is Atari, from pixels, where ours has ALE's own vector form and the others the same frames
made in Python; a shorter `--num-steps` is faster and has the same work per step.

`--until R` times how long both need until 20 greedy episodes have a mean return of R, with stable-baselines3
at its own model zoo's settings, which the recipe has too; evaluation, every 8 rollouts, is not timed.
"""

import argparse
import dataclasses
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from plain_ppo import learner

from torchstone.envs.make import gym, make_env, spaces
from torchstone.tasks.rl.evaluate import VALIDATION, PolicyEvaluator


def make_single_env(recipe: Any) -> Any:
    """One environment for the others: as Gymnasium makes it, or under the recipe's wrappers."""
    if not recipe.wrappers:
        return gym().make(recipe.data)
    return make_env(recipe.data, recipe.wrappers, recipe.max_episode_steps)[0]


def make_sb3(kind: str, recipe: Any, seed: int = 0, total: int | None = None) -> Any:
    """stable-baselines3's algorithm with the recipe's settings; learning rate and clip decay if there is a
    `total` number of steps."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure

    def decay(number: float) -> Any:
        return (lambda left: left * number) if total else number

    options: dict[str, Any] = {}
    if kind == "PPO":
        options = {"n_epochs": recipe.epochs, "batch_size": recipe.batch_size}
        options["clip_range"] = decay(recipe.clip_coef)
    sizes, network = list(recipe.hidden), "MlpPolicy"
    options["policy_kwargs"] = {"net_arch": {"pi": sizes, "vf": sizes}}
    envs = make_vec_env(lambda: make_single_env(recipe), recipe.num_envs, seed=seed)
    if recipe.data.startswith("ALE/"):
        network, options["policy_kwargs"] = "CnnPolicy", {}
    model = getattr(stable_baselines3, kind)(
        network,
        envs,
        n_steps=recipe.num_steps,
        gamma=recipe.gamma,
        gae_lambda=recipe.gae_lambda,
        ent_coef=recipe.ent_coef,
        vf_coef=recipe.vf_coef,
        max_grad_norm=recipe.max_grad_norm,
        learning_rate=decay(recipe.lr),
        device="cpu",
        seed=seed,
        **options,
    )
    model.set_logger(configure(None, []))
    return model


def arithmetic(model: Any, recipe: Any) -> float:
    """Seconds of one core that the network's passes for one rollout of PPO and its update take: forward at
    each step, once over all of it and the last minibatch, and forward and backward in each minibatch."""
    shape = spaces(recipe.data, tuple(recipe.wrappers))[0].shape
    env_steps = recipe.num_envs * recipe.num_steps

    def timed(rows: int, backward: bool) -> float:
        x, times = torch.rand(rows, *shape), []
        for _ in range(3):
            began = time.process_time()
            with torch.set_grad_enabled(backward):
                policy, value = model.policy_and_value(x)
                if backward:
                    torch.autograd.grad(policy.logits.sum() + value.sum(), list(model.parameters()))
            times.append(time.process_time() - began)
        return min(times)

    gradients = recipe.epochs * -(-env_steps // recipe.batch_size)
    acting = recipe.num_steps * timed(recipe.num_envs, False)
    batch = min(recipe.batch_size, env_steps)
    evaluation = timed(env_steps, False) + timed(batch, False)
    return acting + evaluation + gradients * timed(batch, True)


def speed(module: Any, system: str, recipe: Any, pairs: int, rollouts: int) -> None:
    run = next(module.build(recipe))
    acting = [0.0]

    def own(n: int) -> None:
        for _ in range(n):
            began = time.process_time()
            batch = next(run.stream)
            acting[0] += time.process_time() - began
            run.update(batch)

    env_steps = recipe.num_envs * recipe.num_steps
    other = make_sb3(system.upper(), recipe)
    learners: dict[str, Callable[[int], Any]] = {
        "ours": own,
        "stable-baselines3": lambda n: other.learn(n * env_steps, reset_num_timesteps=False),
    }
    if system == "ppo":
        learners["plain"] = learner(lambda: make_single_env(recipe), recipe)
    for learn in learners.values():
        learn(1)
    print(f"{system} on {recipe.data}, {torch.get_num_threads()} threads")
    walls: dict[str, list[float]] = {name: [] for name in learners}
    cores: dict[str, list[float]] = {name: [] for name in learners}
    shares, each = [], []
    for _ in range(pairs):
        columns = []
        for name, learn in learners.items():
            acting[0], wall, core = 0.0, time.perf_counter(), time.process_time()
            learn(rollouts)
            took = time.perf_counter() - wall, time.process_time() - core
            if learn is own:
                first = took
                shares.append(1 - acting[0] / took[1])
                each.append(took[1] / rollouts)
            walls[name].append(took[0] / first[0]), cores[name].append(took[1] / first[1])
            step = [rollouts * env_steps / seconds for seconds in took]
            columns.append(f"{name} {step[0]:.0f} steps per second, {step[1]:.0f} of a core")
        print("; ".join(columns), flush=True)
    for name in list(learners)[1:]:
        print(
            f"median {statistics.median(walls[name]):.2f} times as fast as {name} by the clock, "
            f"{statistics.median(cores[name]):.2f} by seconds of one core"
        )
    print(f"{100 * statistics.median(shares):.0f} % of ours is the update", end="")
    if system == "ppo":
        share = arithmetic(run.state["model"], recipe) / statistics.median(each)
        print(f", {100 * share:.0f} % the network's own passes", end="")
    print()


class Greedy:
    """stable-baselines3's policy with our interface of greedy actions."""

    def __init__(self, policy: Any):
        self.policy = policy

    def greedy(self, observation: torch.Tensor) -> torch.Tensor:
        return self.policy._predict(observation, deterministic=True)


def until(module: Any, recipe: Any, expected: float, seeds: list[int]) -> None:
    """Seconds until the mean of 20 greedy episodes is `expected`, each learner's own."""
    from stable_baselines3.common.callbacks import BaseCallback

    evaluator = PolicyEvaluator(recipe.data, recipe.wrappers, recipe.max_episode_steps, 20, "cpu")
    evaluator(module.VARIANTS[recipe.variant].make(), VALIDATION)  # made before any clock runs
    env_steps = recipe.num_envs * recipe.num_steps

    class Watch(BaseCallback):
        def __init__(self, clock: "Stopwatch"):
            super().__init__()
            self.clock = clock

        def _on_rollout_start(self) -> None:
            self.clock.check(self.num_timesteps)

        def _on_step(self) -> bool:
            return not self.clock.result

    class Stopwatch:
        """Pauses during evaluation."""

        def __init__(self, policy: Any):
            self.policy, self.result, self.rollouts = policy, None, 0
            self.paused = [0.0, 0.0]
            self.began = [time.perf_counter(), time.process_time()]

        def check(self, steps: int) -> None:
            self.rollouts += 1
            if self.result or self.rollouts % 8:
                return
            now = [time.perf_counter(), time.process_time()]
            returns = evaluator(self.policy, VALIDATION)
            if statistics.fmean(returns) >= expected:
                spent = zip(now, self.began, self.paused, strict=True)
                self.result = (*(n - b - a for n, b, a in spent), steps)
            after = [time.perf_counter(), time.process_time()]
            self.paused = [a + e - n for a, e, n in zip(self.paused, after, now, strict=True)]

    rows = []
    for seed in seeds:
        own = dataclasses.replace(recipe, seed=seed)
        run = next(module.build(own))
        ours = Stopwatch(run.state["model"])
        for step in range(own.updates):
            if ours.result:
                break
            run.update(next(run.stream))
            ours.check((step + 1) * env_steps)
        model = make_sb3("PPO", own, seed, own.updates * env_steps)
        other = Stopwatch(Greedy(model.policy))
        model.learn(own.updates * env_steps, callback=Watch(other))
        if not (ours.result and other.result):
            print(f"seed {seed}: ours {ours.result}, stable-baselines3 {other.result}", flush=True)
            continue
        ratio = [t / o for o, t in zip(ours.result, other.result, strict=True)]
        rows.append(ratio)
        print(
            f"seed {seed}: ours {ours.result[0]:.1f} s ({ours.result[1]:.1f} of a core, "
            f"{ours.result[2]} steps), stable-baselines3 {other.result[0]:.1f} s "
            f"({other.result[1]:.1f}, {other.result[2]} steps): {ratio[0]:.2f}, {ratio[1]:.2f} of a core",
            flush=True,
        )
    if rows:
        clock, core, steps = (statistics.median(each) for each in zip(*rows, strict=True))
        print(
            f"median {clock:.2f} times as fast to {expected:g} by the clock, {core:.2f} by seconds of "
            f"one core, in {steps:.2f} times fewer steps"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="ppo", choices=["ppo", "a2c"])
    parser.add_argument("--recipe", default="cartpole")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rollouts", type=int, help="in each part of a round (default: 8, a2c 100)")
    parser.add_argument("--num-steps", type=int, help="steps of a rollout (default: the recipe's)")
    parser.add_argument("--until", type=float, help="time to this return instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    module = importlib.import_module(f"torchstone.systems.reinforcement.{args.system}")
    recipe = dataclasses.replace(module.RECIPES[args.recipe], device="cpu")
    if args.num_steps:
        recipe = dataclasses.replace(recipe, num_steps=args.num_steps)
    if args.until is not None:
        until(module, recipe, args.until, args.seeds)
        return
    rollouts = args.rollouts or {"ppo": 8, "a2c": 100}[args.system]
    recipe = dataclasses.replace(recipe, anneal_lr=False)
    speed(module, args.system, recipe, args.pairs, rollouts)


if __name__ == "__main__":
    main()
