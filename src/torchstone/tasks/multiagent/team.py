"""What teams of agents share: inputs of networks, greedy evaluation in the package's own environment, a Run.

A network that plays has `greedy()`, which begins episodes and gives an `Act` (see `envs.team_episodes`). The
return of an episode is the team's: the sum of all agents' rewards.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data import identity
from torchstone.engine.console import notify
from torchstone.engine.run import FORWARDS, Examples, Run
from torchstone.envs.matrix_games import PREFIX
from torchstone.envs.team_envs import PettingZooEnvs, Team, make_team_envs, team_identity
from torchstone.envs.team_episodes import EpisodeStream, TeamEpisodes, play_episodes
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.seeding import SeedStream, derive_generator, derive_seed
from torchstone.tasks.rl.evaluate import write_video

VALIDATION, TEST = 10_007, 20_011  # seeds, the same for every run, so that all play the same episodes
SIDE_BY_SIDE = 100  # episodes


def refuse_video(video: Any, game: str) -> None:
    if video is not None:
        raise BadInput(f"{game} has nothing to film: its tables are in the run's pictures")


def read_team(spec: str) -> Team:
    """The agents of an environment; whoever listens learns which environment it is."""
    identity.record(spec, environment=team_identity(spec))
    return make_team_envs(spec).team


def team_config(team: Team) -> dict[str, Any]:
    """The arguments of a network for this team."""
    return {"observation_sizes": list(team.observation_sizes), "action_counts": list(team.action_counts)}


def with_identity(observation: Float[Tensor, "*batch agent feature"]) -> Float[Tensor, "*batch agent input"]:
    """Observations and which agent sees them, one-hot: a network of all agents can then tell them apart."""
    agents = observation.shape[-2]
    numbers = torch.eye(agents, dtype=observation.dtype, device=observation.device)
    return torch.cat([observation, numbers.expand(*observation.shape[:-2], -1, -1)], -1)


class RandomTeam:
    """Agents that choose uniformly among their actions."""

    def __init__(self, team: Team, seed: int):
        self.counts = torch.tensor(team.action_counts)
        self.generator = derive_generator(seed, SeedStream.EXPLORATION, 0)

    def greedy(self) -> Callable[[int, Tensor, Tensor], Tensor]:
        def act(t: int, observation: Tensor, present: Tensor) -> Tensor:
            uniform = torch.rand(present.shape, generator=self.generator)
            return (uniform * self.counts).long()

        return act


@torch.no_grad()
def play_team(
    model: Any, spec: str, episodes: int, max_steps: int, seed: int, *, exact: bool = True
) -> Iterator[TeamEpisodes]:
    """Greedy episodes, some at a time."""
    envs = make_team_envs(spec, exact=exact)
    seeds = [derive_seed(seed, SeedStream.SEPARATE_ENVS, number) % 2**32 for number in range(episodes)]
    with eval_mode(model) if isinstance(model, nn.Module) else contextlib.nullcontext():
        for first in range(0, episodes, SIDE_BY_SIDE):
            yield play_episodes(envs, model.greedy(), seeds[first : first + SIDE_BY_SIDE], max_steps)


def team_returns(*args: Any, **options: Any) -> list[float]:
    """The team's return of each episode of `play_team`."""
    return [
        total for batch in play_team(*args, **options) for total in batch.returns.double().sum(1).tolist()
    ]


def return_metrics(returns: list[float], num_agents: int, *, std: bool = False) -> dict[str, float]:
    """The team's mean return, and each agent's share of it."""
    mean = math.fsum(returns) / len(returns)
    metrics = {"return": mean, "agent_return": mean / num_agents}
    if std:
        squares = math.fsum((r - mean) ** 2 for r in returns)
        metrics["return_std"] = math.sqrt(squares / max(len(returns) - 1, 1))
    return metrics


def make_run(
    model: nn.Module,
    recipe: Any,
    team: Team,
    stream: EpisodeStream,
    update: Callable[[Any], Mapping],
    state: dict[str, Any],
    model_config: dict[str, Any],
    *,
    note: str = "",
    pictures: Callable[[Path], None] | None = None,
) -> Run:
    """A Run of `recipe.steps` updates, evaluated by the team's mean return of greedy episodes.

    Args:
        note: what the record shall say, such as whose actions a critic sees.
    """
    options = (recipe.data, recipe.eval_episodes, recipe.max_episode_steps)

    def evaluate(seed: int, exact: bool) -> dict[str, float]:
        returns = team_returns(model, *options, seed, exact=exact)
        return return_metrics(returns, len(team.agents), std=exact)

    def test() -> dict[str, float]:
        by_chance = team_returns(RandomTeam(team, TEST), *options, TEST, exact=True)
        return evaluate(TEST, exact=True) | {"random_return": math.fsum(by_chance) / len(by_chance)}

    metadata = {"task": "team", "variant": recipe.variant, "model_config": model_config}
    metadata["team"] = {
        "spec": recipe.data,
        "agents": list(team.agents),
        "episodes": recipe.eval_episodes,
        "max_episode_steps": recipe.max_episode_steps,
    }
    about = f"{recipe.data}: {', '.join(team.agents)}; return is the sum of all agents' rewards in an episode"
    about += f" of at most {recipe.max_episode_steps} steps"
    metadata["data"] = f"{about}; {note}" if note else about

    def report(folder: Path) -> None:
        if pictures is not None:
            pictures(folder)
        if not recipe.data.startswith(PREFIX):
            try:
                film(model, metadata, folder / "episode.mp4", TEST)
            except Exception as error:  # noqa: BLE001  the training is finished, whatever a renderer does now
                notify(f"no video of an episode: {error}")

    # validation plays arrays where there are any, a hundred episodes in the time of a few
    work = recipe.num_envs * FORWARDS + 3.0 * FORWARDS * getattr(recipe, "batch_size", recipe.num_envs)
    examples = Examples(recipe.num_envs, None, unit="episodes", evaluation=float(recipe.eval_episodes))
    examples = examples._replace(update=work)
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: evaluate(VALIDATION, exact=False),
        test=test,
        best_metric="return",
        state={"model": model, **state, "stream": stream},
        steps=recipe.steps,
        examples=examples,
        metadata=metadata,
        report=report,
    )


def batch_metrics(batch: Any) -> dict[str, float]:
    """Steps so far, and the team's mean return of the episodes that were just played."""
    mean = math.fsum(batch.returns) / len(batch.returns)
    return {"env_steps": float(batch.env_steps), "episodic_return": mean}


def check_same_team(metadata: Mapping[str, Any], spec: str) -> Team:
    """
    Raises:
        BadInput: an environment with other agents than those the networks were trained for.
    """
    own, other = metadata["model_config"], read_team(spec)
    if any(list(getattr(other, name)) != list(own[name]) for name in ("observation_sizes", "action_counts")):
        raise BadInput(
            f"{spec} has agents with observations of {list(other.observation_sizes)} and "
            f"{list(other.action_counts)} actions, and this team was trained with "
            f"{list(own['observation_sizes'])} and {list(own['action_counts'])}: train one for it"
        )
    return other


def evaluate(model: Any, metadata: dict[str, Any], data: str, *, held_out: bool) -> dict[str, float]:
    """The team's mean return in the run's test, or in another environment with the same spaces.

    Raises:
        BadInput: an environment with other agents.
    """
    team, about = check_same_team(metadata, data), metadata["team"]
    returns = team_returns(model, data, about["episodes"], about["max_episode_steps"], TEST)
    return return_metrics(returns, len(team.agents), std=True)


def play(
    model: Any,
    metadata: dict[str, Any],
    *,
    episodes: int = 10,
    video: str | Path | None = None,
    seed: int = TEST,
) -> list[float]:
    """The team's returns of `episodes` greedy episodes; the first one is recorded into `video`.

    Raises:
        BadInput: a matrix game, which has nothing to film; a package that is not installed.
    """
    about = metadata["team"]
    if video is not None:
        if about["spec"].startswith(PREFIX):
            refuse_video(video, about["spec"])
        film(model, metadata, Path(video), seed)
    return team_returns(model, about["spec"], episodes, about["max_episode_steps"], seed)


@torch.no_grad()
def film(model: Any, metadata: Mapping[str, Any], path: Path, seed: int) -> None:
    """The first episode that `play` plays with this seed."""
    about = metadata["team"]
    envs = make_team_envs(about["spec"], exact=True)
    assert isinstance(envs, PettingZooEnvs)
    env, frames = envs.render_one(), []

    with eval_mode(model):
        act = model.greedy()

        def watched(t: int, observation: Tensor, present: Tensor) -> Tensor:
            frames.append(np.ascontiguousarray(env.render()))
            return act(t, observation, present)

        seeds = [derive_seed(seed, SeedStream.SEPARATE_ENVS, 0) % 2**32]
        play_episodes(envs, watched, seeds, about["max_episode_steps"])
    write_video(path, frames, 8.0)
