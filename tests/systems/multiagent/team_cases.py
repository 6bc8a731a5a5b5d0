"""Episodes of `toy_teams`, whose three agents come and go and have other spaces, for tests of systems of teams."""

import torch

from torchstone.envs.team_envs import make_team_envs
from torchstone.envs.team_episodes import play_episodes

SIZES, COUNTS = (2, 3, 1), (2, 4, 3)


def toy_episodes(count=3, seed=0, dtype=torch.double):
    envs, generator = make_team_envs("pettingzoo:toy_teams"), torch.Generator().manual_seed(seed)
    counts = torch.tensor(COUNTS)
    act = lambda t, o, present: (torch.rand(present.shape, generator=generator) * counts).long()  # noqa: E731
    episodes = play_episodes(envs, act, list(range(count)), 10)
    return episodes._replace(
        observation=episodes.observation.to(dtype), reward=episodes.reward.to(dtype) / 10
    )


def with_garbage(episodes):
    """The same, with anything at all where an agent was not present; observations stay, the state has them."""
    absent = ~episodes.present
    return episodes._replace(
        action=episodes.action.masked_fill(absent, 1), reward=episodes.reward.masked_fill(absent, 1e4)
    )


def grad_of(loss, model):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]
