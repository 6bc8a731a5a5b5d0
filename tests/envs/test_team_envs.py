"""Environments of several agents: PettingZoo's, with agents that come and go and differ, and matrix games."""

import json

import pytest
import torch

from torchstone.envs.matrix_games import COOPERATION, PAYOFFS, payoff_of
from torchstone.envs.team_envs import make_team_envs, read_spec, team_identity
from torchstone.envs.team_episodes import EpisodeStream, play_episodes
from torchstone.errors import BadInput

TOY = "pettingzoo:toy_teams"


def toy_episodes(seeds=(0, 1), max_steps=10):
    envs = make_team_envs(TOY)
    counts = torch.tensor(envs.team.action_counts)
    generator = torch.Generator().manual_seed(0)

    def act(t, observation, present):
        return (torch.rand(present.shape, generator=generator) * counts).long()

    return envs, play_episodes(envs, act, list(seeds), max_steps)


def test_agents_come_and_go():
    envs, episodes = toy_episodes()
    assert envs.team.agents == ("a", "b", "c")
    expected = {"a": "111000", "b": "111100", "c": "011111"}
    for number, agent in enumerate(expected):
        steps = [step == "1" for step in expected[agent]]
        assert episodes.present[0, :, number].tolist() == steps, agent
    # each one's own end, and nobody's else
    assert episodes.terminated.nonzero().tolist() == [[0, 2, 0], [0, 5, 2], [1, 2, 0], [1, 5, 2]]
    assert episodes.truncated.nonzero().tolist() == [[0, 3, 1], [1, 3, 1]]
    reward = 10 * torch.arange(3) + torch.arange(6)[:, None]
    assert torch.equal(episodes.reward[0], reward * episodes.present[0])
    # whoever is not there has done nothing
    assert not episodes.action[~episodes.present].any()


def test_states_that_have_a_value():
    """The next one of an agent that acts on, and the last one of an agent that was cut off; none of one that left."""
    _, episodes = toy_episodes()
    assert episodes.continues[0, :, 0].tolist() == [True, True, False, False, False, False]
    assert episodes.continues[0, :, 1].tolist() == [True, True, True, True, False, False]
    # c acts from the second step on
    assert episodes.continues[0, :, 2].tolist() == [True, True, True, True, True, False]
    # the last observation of the one that was cut off is there to bootstrap from
    assert episodes.observation[0, 4, 1].abs().sum() > 0
    assert episodes.observation[0, 5, 1].abs().sum() == 0
    state = episodes.state
    assert state.shape == (2, 7, 3 * 3 + 3)
    assert state[0, 4, -3:].tolist() == [0, 1, 1]


def test_other_spaces_are_padded_and_counted():
    envs, episodes = toy_episodes()
    assert envs.team.observation_sizes == (2, 3, 1)
    assert envs.team.action_mask.tolist() == [[True, True, False, False], [True] * 4, [True] * 3 + [False]]
    assert not episodes.observation[:, :, 0, 2:].any()
    assert not episodes.observation[:, :, 2, 1:].any()
    assert episodes.observation[:, :3, 0, :2].all()


def test_a_time_limit_truncates_whoever_is_there():
    _, episodes = toy_episodes(max_steps=2)
    assert episodes.truncated.tolist() == [[[False] * 3, [True] * 3]] * 2
    assert not episodes.terminated.any()
    assert episodes.continues.all(2).tolist() == [[True, True]] * 2


def test_an_episode_follows_from_its_seed_alone():
    _, both = toy_episodes((5, 6))
    _, other = toy_episodes((6, 5))
    assert torch.equal(both.observation[0], other.observation[1])
    assert not torch.equal(both.observation[0], both.observation[1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pettingzoo:no_such_package.x", "needs no_such_package: pip install 'torchstone"),
        ("pettingzoo:json", "has no parallel_env"),
        ("pettingzoo:json.no_such_scenario", "json has no no_such_scenario: "),
        ("pettingzoo:toy_teams:stranger", "the argument 'stranger' has no value"),
        ("pettingzoo:toy_teams:color=3", "cannot be made"),
        ("CartPole-v1", "of one agent: ppo or dqn"),
        ("matrix:two_stp", "did you mean matrix:two_step"),
    ],
)
def test_what_is_no_team_is_refused_in_one_line(spec, message):
    with pytest.raises(BadInput, match=message) as refused:
        make_team_envs(spec)
    assert "\n" not in str(refused.value)


def test_an_agent_that_nobody_knew_of_is_refused():
    envs = make_team_envs(f"{TOY}:stranger=True")
    with pytest.raises(BadInput, match="'d' that is not in its possible_agents"):
        play_episodes(envs, lambda t, o, present: torch.zeros_like(present).long(), [0], 4)


def test_spec_and_identity():
    assert read_spec("pettingzoo:a.b:N=2,name=x,c=0.5") == ("a.b", {"N": 2, "name": "x", "c": 0.5})
    about = team_identity(TOY)
    assert about["agents"] == ["a", "b", "c"]
    assert about == json.loads(json.dumps(about))
    assert team_identity("matrix:ipd")["payoffs"] == PAYOFFS["ipd"]


def test_the_two_step_game():
    envs = make_team_envs("matrix:two_step")
    courses = torch.tensor([[[0, 1], [1, 1]], [[1, 0], [1, 1]], [[1, 1], [0, 1]], [[1, 0], [0, 0]]])
    episodes = play_episodes(envs, lambda t, o, p: courses[:, t], [0] * 4, 2)
    assert episodes.returns.sum(1).tolist() == [7.0, 8.0, 1.0, 0.0]
    assert episodes.terminated[:, 1].all()
    assert episodes.observation[:, 1, 0].argmax(1).tolist() == [1, 2, 2, 2]


def test_one_shot_games_pay_both_players():
    for name, payoff in PAYOFFS.items():
        envs = make_team_envs(f"matrix:{name}")
        count = len(payoff[0])
        action = torch.cartesian_prod(torch.arange(count), torch.arange(count))
        episodes = play_episodes(envs, lambda t, o, p, action=action: action, [0] * len(action), 1)
        assert torch.equal(episodes.reward[:, 0], payoff_of(f"matrix:{name}").flatten(1).T)


def test_dilemmas_are_dilemmas():
    """Whatever the other does, defecting pays more; and both would rather cooperate."""
    for name, (first, second) in COOPERATION.items():
        payoff = payoff_of(f"matrix:{name}")
        assert (payoff[0, 1 - first] > payoff[0, first]).all()
        assert (payoff[1, :, 1 - second] > payoff[1, :, second]).all()
        assert (payoff[:, first, second] > payoff[:, 1 - first, 1 - second]).all()
    with pytest.raises(BadInput, match="matrix:ipd"):
        payoff_of("matrix:idp")


def stream_of(**fields):
    envs = make_team_envs(TOY)

    def policy(generator, env_steps):
        counts = torch.tensor(envs.team.action_counts)
        return lambda t, o, present: (torch.rand(present.shape, generator=generator) * counts).long()

    return EpisodeStream(envs, policy, num_envs=2, max_steps=6, seed=3, **fields)


@pytest.mark.parametrize("fields", [{}, {"buffer_size": 5, "batch_size": 4}])
def test_a_stream_continues_where_it_was_saved(fields):
    whole, cut = stream_of(**fields), stream_of(**fields)
    for _ in range(3):
        next(whole), next(cut)
    resumed = stream_of(**fields)
    resumed.load_state_dict(cut.state_dict())
    for _ in range(3):
        a, b = next(whole), next(resumed)
        assert all(torch.equal(x, y) for x, y in zip(a.episodes, b.episodes, strict=True))
        assert a[1:] == b[1:]


def test_a_buffer_holds_the_newest_episodes_and_samples_each_once():
    stream = stream_of(buffer_size=5, batch_size=5)
    seen = []
    for _ in range(6):
        batch = next(stream)
        seen.append(batch.episodes.observation.sum((1, 2, 3)))
    first = torch.stack([stream.buffer.observation[k].sum() for k in range(5)])
    assert torch.equal(seen[-1].sort().values, first.sort().values)
    fresh = stream_of()
    newest = [next(fresh) for _ in range(stream.position)][-1].episodes
    for episode in newest.observation:
        assert any(torch.equal(episode, held[: len(episode)]) for held in stream.buffer.observation)
