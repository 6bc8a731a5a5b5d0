"""MuZero's stream against what was really done: targets at and beyond the end, time limits, both players' views."""

from types import SimpleNamespace

import pytest
import torch

from torchstone.envs import search_stream
from torchstone.envs.board_games import connect_four, positions_by_ply, tic_tac_toe
from torchstone.envs.openspiel import OpenSpielGame
from torchstone.envs.search_stream import GameEnvs, SearchStream, SearchStreamConfig, transform
from torchstone.envs.vector_env import VectorEnv

GAMMA, K, N = 0.9, 3, 2


def value_of(observation):
    """Something that stands for a network's value: a number for every observation."""
    flat = observation.flatten(1).float()
    return (flat * torch.arange(1.0, flat.shape[1] + 1)).sum(1).sin()


def search(observation, legal, generator):
    visits = legal * torch.randint(1, 9, legal.shape, generator=generator)
    return SimpleNamespace(root_visits=visits.float(), root_value=10 + value_of(observation))


def make_stream(envs, num_actions, reanalyse=0, **changes):
    options = {
        "num_steps": 6,
        "sample_size": 40,
        "learning_starts": 150,
        "buffer_size": 400,
        "unroll_steps": K,
        "n_step": N,
        "gamma": GAMMA,
        "reanalyse": reanalyse,
    }
    config = SearchStreamConfig(**options | changes)
    return SearchStream(envs, search, value_of, lambda steps: 1.0, num_actions, config, seed=3)


class Recorder:
    """The envs' steps, env by env, as they happen."""

    def __init__(self, envs):
        self.step_of, self.envs = envs.step, envs
        self.history = [[] for _ in range(envs.num_envs)]
        envs.step = self.step

    def step(self, action):
        before = self.envs.observation.clone()
        step = self.step_of(action)
        for e, rows in enumerate(self.history):
            final = value_of(step.next_observation[e : e + 1]).item()
            rows.append((before[e], action[e].item(), *(x[e].item() for x in step[1:4]), final))
        return step


def plain_row(history, start, sign):
    """(actions, rewards, values, is_live, is_known) of K steps from `start`, by the definition."""
    actions, rewards, values, is_live, is_known = [], [], [], [], []
    live = known = True
    for k in range(K + 1):
        value, factor = 0.0, 1.0
        for i in range(N):
            _, _, reward, terminated, truncated, final = history[start + k + i]
            value += factor * reward
            factor *= GAMMA * sign
            if truncated and not terminated:
                value, factor = value + factor * sign * final, 0.0
            if terminated or not factor:
                factor = 0.0
                break
        if factor:  # by the network alone before the first batch, then by the search
            searched = 10 if (start + k + N) * 5 >= 150 else 0
            value += factor * (searched + value_of(history[start + k + N][0][None]).item())
        _, action, reward, terminated, truncated, _ = history[start + k]
        actions.append(action)
        rewards.append(reward if live else 0.0)
        values.append(value if live else 0.0)
        is_live.append(live)
        is_known.append(known)
        live = live and not (terminated or truncated)
        known = known and not (truncated and not terminated)
    return actions[:K], rewards[:K], values, is_live, is_known


@pytest.mark.parametrize("kind", ["time limit", "two players"])
def test_batches_equal_what_was_done(kind, monkeypatch):
    monkeypatch.setattr(search_stream, "transform", lambda symmetries, *columns: columns[:3])
    if kind == "time limit":  # CartPole of 12 steps: some episodes are cut, and some fall
        envs, num_actions, sign = VectorEnv("CartPole-v0", 5, seed=1, max_episode_steps=12), 2, 1
    else:
        envs, num_actions, sign = GameEnvs(tic_tac_toe(), 5), 9, -1
    recorder = Recorder(envs)
    stream = make_stream(envs, num_actions)
    kinds = set()
    for number in range(3):
        batch = next(stream)
        assert batch.number == number
        assert batch.env_steps == 5 * len(recorder.history[0])
        for row in range(len(batch.value)):
            expected = [
                plain_row(history, t, sign)
                for history in recorder.history
                for t in range(len(history) - K - N)
                if torch.equal(history[t][0].float(), batch.observation[row])
                and [h[1] for h in history[t : t + K]] == batch.action[row].tolist()
            ]
            found = tuple(
                x[row] for x in (batch.action, batch.reward, batch.value, batch.is_live, batch.is_known)
            )
            assert any(
                all(
                    torch.allclose(a.double(), torch.tensor(b).double(), atol=1e-5)
                    for a, b in zip(found, each, strict=True)
                )
                for each in expected
            )
            kinds.add((bool(batch.is_live[row].all()), bool(batch.is_known[row].all())))
    assert kinds >= (
        {(True, True), (False, True), (False, False)}
        if kind == "time limit"
        else {(True, True), (False, True)}
    )


@pytest.mark.parametrize("make", [tic_tac_toe, connect_four])
def test_an_image_is_a_game_too(make):
    """Its moves, played by the rules from its position, are legal as those of the original are, and end with
    the same outcome; where a policy has a peak, so has the image's."""
    game, rows, steps = make(), 200, 4
    generator = torch.Generator().manual_seed(0)
    state = game.initial(rows)
    for _ in range(3):
        state = game.step(
            state, torch.multinomial(game.legal_actions(state).float(), 1, generator=generator)[:, 0]
        )
    observation, actions, policies, states = game.observe(state).float(), [], [], [state]
    for _ in range(steps):
        legal = game.legal_actions(states[-1]).float()
        policies.append(legal / legal.sum(1, keepdim=True))
        actions.append(torch.multinomial(legal + 1e-6, 1, generator=generator)[:, 0])
        states.append(game.step(states[-1], actions[-1]))
    policies.append(game.legal_actions(states[-1]).float())
    action, policy = torch.stack(actions, 1), torch.stack(policies, 1)
    image, moves, targets = transform(game.symmetries, observation, action, policy, generator)
    assert (image != observation).any(3).any(2).any(1).float().mean() > 0.3
    known = {tuple(game.observe(s[None])[0].flatten().tolist()): s for s in reachable(game)}
    for row in range(rows):
        now = known[tuple(image[row].bool().flatten().tolist())][None]
        for k in range(steps):
            if bool(game.outcome(states[k][[row]])[0]):
                break
            assert torch.equal(targets[row, k] > 0, game.legal_actions(now)[0])
            now = game.step(now, moves[row, [k]])
            for mine, original in zip(game.outcome(now), game.outcome(states[k + 1][[row]]), strict=True):
                assert torch.equal(mine, original)


def reachable(game):
    """All positions after three moves."""
    return positions_by_ply(game, 3)[3]


def test_a_player_who_moves_twice_is_refused():
    """Kalah: a seed in one's own store moves again."""
    envs = GameEnvs(OpenSpielGame("openspiel:mancala"), 1)
    with pytest.raises(ValueError, match="moves twice in a row"):
        envs.step(torch.tensor([3]))


def test_rewards_of_games_are_the_movers_and_games_begin_anew():
    envs = GameEnvs(tic_tac_toe(), 1)
    for cell in (0, 3, 1, 4):
        step = envs.step(torch.tensor([cell]))
        assert step.reward.tolist() == [0.0]
        assert not envs.action_mask[0, cell]
    step = envs.step(torch.tensor([2]))  # the first player's third
    assert step.reward.tolist() == [1.0]
    assert step.terminated.tolist() == [True]
    assert step.returns == [1.0]
    assert envs.action_mask.all()
    for cell in (8, 3, 1, 4, 0):
        step = envs.step(torch.tensor([cell]))
    step = envs.step(torch.tensor([5]))  # the second player's
    assert (step.reward.tolist(), step.returns) == ([1.0], [-1.0])


def test_old_positions_are_searched_again_and_only_their_targets_change():
    streams = [make_stream(VectorEnv("CartPole-v0", 4, seed=1), 2, reanalyse=r) for r in (0, 50)]
    for stream in streams:
        while stream.env_steps < 150:
            stream._step([])
    before = {name: getattr(streams[1].buffer, name).clone() for name in streams[1].buffer.COLUMNS}
    streams[1].search = lambda *args: SimpleNamespace(
        root_visits=torch.tensor([[3.0, 1.0]]).expand(50, -1), root_value=torch.full((50,), 77.0)
    )
    streams[1]._reanalyse(torch.Generator().manual_seed(0))
    buffer = streams[1].buffer
    changed = buffer.value == 77
    assert 20 < changed.sum() <= 50
    assert torch.allclose(buffer.policy[changed], torch.tensor([0.75, 0.25]))
    assert not changed[len(buffer) :].any()
    for name, old in before.items():
        new = getattr(buffer, name)
        same = (
            torch.equal(new[~changed], old[~changed])
            if name in ("policy", "value")
            else torch.equal(new, old)
        )
        assert same, name


@pytest.mark.parametrize("kind", ["env", "game"])
def test_a_stream_goes_on_to_the_bit(kind):
    def make():
        envs = VectorEnv("CartPole-v0", 4, seed=1) if kind == "env" else GameEnvs(tic_tac_toe(), 4)
        return make_stream(envs, 2 if kind == "env" else 9, reanalyse=8)

    stream, other = make(), make()
    for _ in range(3):
        next(stream)
    state = stream.state_dict()
    other.load_state_dict(torch.load(_saved(state), weights_only=True))
    for _ in range(3):
        a, b = next(stream), next(other)
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def _saved(state):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_the_oldest_steps_are_overwritten():
    stream = make_stream(VectorEnv("CartPole-v0", 4, seed=1), 2, buffer_size=60, learning_starts=20)
    for _ in range(8):
        batch = next(stream)
    assert len(stream.buffer) == 15
    assert stream.buffer.num_written > 30
    assert torch.isfinite(batch.value).all()
