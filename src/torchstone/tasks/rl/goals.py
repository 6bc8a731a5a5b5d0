"""What an agent does in a goal environment: where its episodes go, and a picture of it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float

from torchstone.envs.actor import Actor
from torchstone.envs.vector_env import VectorEnv
from torchstone.parts.modes import eval_mode
from torchstone.plots.goal_paths import draw_goal_paths
from torchstone.tasks.rl.evaluate import env_metadata, eval_wrappers


class GoalEpisodes(NamedTuple):
    """Greedy episodes, one of each env; after an episode's end its last state is repeated."""

    achieved: Float[np.ndarray, "episode time goal"]
    desired: Float[np.ndarray, "episode goal"]
    success: Bool[np.ndarray, " episode"]  # whether the episode ended at its goal


@torch.no_grad()
def play_goals(model: Any, metadata: dict[str, Any], *, episodes: int, seed: int) -> GoalEpisodes | None:
    """The episodes that an evaluation with this seed and so many episodes plays; None where there are no
    goals, or nothing says whether one was reached."""
    env = env_metadata(metadata)
    envs = VectorEnv(
        env["spec"],
        episodes,
        seed=seed,
        wrappers=eval_wrappers(env["wrappers"]),
        max_episode_steps=env["max_episode_steps"],
    )
    try:
        goals = envs.goals
        if goals is None:
            return None
        envs.bound_episodes()
        actor = Actor(model, envs, next(model.parameters()).device)
        desired = envs.observation[:, goals.desired].clone()
        path = [envs.observation[:, goals.achieved].clone()]
        running, success = torch.ones(episodes, dtype=torch.bool), torch.zeros(episodes, dtype=torch.bool)
        with eval_mode(model):
            while running.any():  # each env's episodes have a limit
                step = envs.step(actor.greedy_action())
                now = step.next_observation[:, goals.achieved]
                path.append(torch.where(running[:, None], now, path[-1]))
                done = step.terminated | step.truncated
                if done.any():
                    actor.reset_done(done)
                    if not step.successes:
                        return None
                    first = running[done]
                    success[done & running] = torch.tensor(step.successes)[first]
                    running = running & ~done
        return GoalEpisodes(torch.stack(path, 1).numpy(), desired.numpy(), success.numpy())
    finally:
        envs.close()


def draw_goals(model: Any, metadata: dict[str, Any], file: Path, *, episodes: int, seed: int) -> bool:
    """A picture of greedy episodes: paths, final positions and distances. False if there are none."""
    played = play_goals(model, metadata, episodes=episodes, seed=seed)
    if played is None:
        return False
    draw_goal_paths(*played, file, f"{env_metadata(metadata)['spec']}: greedy episodes, and their goals")
    return True
