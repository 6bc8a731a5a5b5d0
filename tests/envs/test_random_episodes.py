"""Random episodes: each a function of the seed and its number, whoever plays it and when."""

import pytest
import torch

from torchstone.envs.random_episodes import RandomEpisodes


def episodes(seed=0, **options):
    return RandomEpisodes(
        "Dodge-v0",
        (),
        options.pop("limit", None),
        seed=seed,
        dims=1,
        discretize=lambda action: (1.5 * action).round().clamp(-1, 1),
        env_action=lambda action: action[:, 0].long() + 1,
        **options,
    )


def same(a, b):
    return torch.equal(a.frames, b.frames) and torch.equal(a.actions, b.actions) and a[2] == b[2]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_an_episode_follows_from_seed_and_number(num_envs):
    forward = list(episodes().play(range(9)))
    backward = list(episodes(num_envs=num_envs).play([8, 0, 5]))
    assert same(backward[0], forward[8])
    assert same(backward[1], forward[0])
    assert same(backward[2], forward[5])
    assert not same(forward[0], forward[1])
    assert not any(map(same, forward, episodes(seed=1).play(range(9))))


def test_actions_are_repeated_and_discretized():
    lengths = []
    for episode in episodes(max_repeat=4).play(range(20)):
        assert episode.frames.shape == (len(episode.actions), 3, 8, 8)
        assert set(episode.actions.flatten().tolist()) <= {-1.0, 0.0, 1.0}
        lengths.append(len(episode.actions))
    found = torch.cat([e.actions[:-1, 0] == e.actions[1:, 0] for e in episodes().play(range(40))])
    once = torch.cat([e.actions[:-1, 0] == e.actions[1:, 0] for e in episodes(max_repeat=1).play(range(40))])
    print("repeated", float(found.float().mean()), float(once.float().mean()), lengths)
    assert found.float().mean() > 0.7
    assert once.float().mean() < 0.5


def test_a_time_limit_is_no_end():
    several = list(episodes(limit=2).play(range(30)))
    assert max(len(e.frames) for e in several) == 2
    assert {e.is_terminated for e in several} == {False}
    assert all(e.is_terminated for e in episodes().play(range(5)))
