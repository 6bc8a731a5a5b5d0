"""DQN: updates equal stable-baselines3's, extensions follow their definitions, a run resumes bit for bit."""

import copy
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.engine.run import Intervals, fit
from torchstone.envs import disk_buffer, replay_buffer
from torchstone.errors import BadInput, Interrupted
from torchstone.systems.reinforcement import dqn
from torchstone.tasks.rl import off_policy

SMOKE = dataclasses.replace(dqn.RECIPES["smoke"], device="cpu")


def make_sb3(recipe, model):
    """stable-baselines3's algorithm with our weights, whose replay buffer samples what ours sampled."""
    import stable_baselines3
    from stable_baselines3.common.logger import configure

    algorithm = stable_baselines3.DQN(
        "MlpPolicy",
        recipe.data,
        learning_rate=recipe.lr,
        batch_size=recipe.batch_size,
        gamma=recipe.gamma,
        max_grad_norm=recipe.max_grad_norm,
        buffer_size=1000,
        device="cpu",
        policy_kwargs={"net_arch": list(recipe.hidden)},
    )
    algorithm.set_logger(configure(None, []))
    for net in (algorithm.q_net, algorithm.q_net_target):
        for p, own in zip(net.parameters(), model.parameters(), strict=True):
            p.data.copy_(own)
    return algorithm


def feed(algorithm, minibatches) -> None:
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    queue = iter(minibatches)

    def sample(*_, **__):
        transitions = next(queue)[0]
        done = (transitions.discount == 0).float()[:, None]
        column = (
            transitions.action[:, None],
            transitions.next_observation,
            done,
            transitions.reward[:, None],
        )
        return ReplayBufferSamples(transitions.observation, *column)

    algorithm.replay_buffer.sample = sample


@pytest.mark.parametrize("data", ["CartPole-v1", "Acrobot-v1"])
def test_dqn_update_equals_stable_baselines3(data):
    recipe = dataclasses.replace(
        SMOKE,
        data=data,
        hidden=(48, 32),
        gradient_steps=16,
        lr=3e-3,
        max_episode_steps=30,
        learning_starts=200,
        anneal_lr=False,
    )
    run = next(dqn.build(recipe))
    model = run.state["model"]
    for _ in range(3):
        run.update(next(run.stream))
    # two equal networks, and an optimizer without history
    recipe = dataclasses.replace(recipe, target_update_interval=1)
    fresh = next(dqn.build(recipe))
    model = fresh.state["model"]
    batch = next(run.stream)
    batch = batch._replace(number=0)
    other = make_sb3(recipe, model)
    feed(other, off_policy.minibatches(batch, recipe.batch_size))
    before = [p.detach().clone() for p in model.parameters()]
    other.train(gradient_steps=16, batch_size=recipe.batch_size)
    fresh.update(batch)
    pairs = zip(before, model.parameters(), other.q_net.parameters(), strict=True)
    change, difference = 0.0, 0.0
    for was, now, their in pairs:
        change = max(change, (now - was).abs().max().item())
        difference = max(difference, (now - their).abs().max().item())
    print(f"{data}: 16 steps moved weights by {change:.2g}, the two are {difference:.2g} apart")
    assert change > 1e-2
    assert difference < 1e-5


def test_dqn_loss_uses_importance_weights_and_double_q_targets():
    """Σ w H(y - Q) / n with y of double Q-learning, row by row."""
    recipe = dataclasses.replace(SMOKE, per_alpha=0.6, double_q=True, n_step=3)
    run = next(dqn.build(recipe))
    for _ in range(3):
        run.update(next(run.stream))
    model, target_network = run.state["model"], run.state["target_network"]
    with torch.no_grad():  # so that the two choose differently
        target_network.advantage[2].bias.copy_(torch.tensor([0.3, 0.0]))
    batch = next(run.stream)
    transitions, weight = next(off_policy.minibatches(batch, recipe.batch_size))
    y = dqn.targets(model, target_network, transitions, True)
    metrics, errors = dqn.loss(model, transitions, weight, y)
    total = 0.0
    with torch.no_grad():
        q, mine, still = (
            model(transitions.observation),
            model(transitions.next_observation),
            target_network(transitions.next_observation),
        )
    for i in range(recipe.batch_size):
        best = still[i, mine[i].argmax()]
        error = (transitions.reward[i] + transitions.discount[i] * best - q[i, transitions.action[i]]).item()
        assert errors[i].item() == pytest.approx(error, abs=1e-5)
        huber = error**2 / 2 if abs(error) < 1 else abs(error) - 0.5
        total += weight[i].item() * huber / recipe.batch_size
    print("loss", metrics["loss"].item(), "expected", total, "weights", weight.min(), weight.max())
    assert metrics["loss"].item() == pytest.approx(total, rel=1e-5)
    assert weight.min() < 0.9
    assert not torch.equal(mine.argmax(1), still.argmax(1)), (mine, still)


@pytest.mark.parametrize(("double", "alpha"), [(True, 0.6), (True, 0.0), (False, 0.6)])
def test_dqn_update_equals_plain_autograd(double, alpha):
    """Two steps of Adam down Σ w H(y - Q) / n, with a fixed target network, by plain autograd."""
    options = {
        "double_q": double,
        "per_alpha": alpha,
        "n_step": 2,
        "gradient_steps": 2,
        "lr": 3e-3,
        "max_grad_norm": 0.5,
    }
    recipe = dataclasses.replace(
        SMOKE, target_update_interval=9, learning_starts=200, anneal_lr=False, dueling=True, **options
    )
    run = next(dqn.build(recipe))
    model, target_network = run.state["model"], run.state["target_network"]
    run.update(next(run.stream))  # the two are no longer alike
    with torch.no_grad():  # so that they choose differently
        target_network.advantage[2].bias.copy_(torch.tensor([0.3, 0.0]))
    batch = next(run.stream)
    plain = copy.deepcopy(model)
    rule = torch.optim.Adam(plain.parameters(), lr=recipe.lr)
    state = run.state["optimizer"].state_dict()["state"][0]
    sizes = [p.numel() for p in plain.parameters()]
    moments = zip(state["exp_avg"].split(sizes), state["exp_avg_sq"].split(sizes), strict=True)
    for p, (one, two) in zip(plain.parameters(), moments, strict=True):
        views = {"exp_avg": one.view_as(p).clone(), "exp_avg_sq": two.view_as(p).clone()}
        rule.state[p] = {"step": state["step"].clone(), **views}
    differ = 0
    for transitions, weight in off_policy.minibatches(batch, recipe.batch_size):
        with torch.no_grad():
            next_q = target_network(transitions.next_observation)
            best = (plain if double else target_network)(transitions.next_observation).argmax(1)
            differ += (best != next_q.argmax(1)).sum().item()
            y = transitions.reward + transitions.discount * next_q.gather(1, best[:, None])[:, 0]
        error = y - plain(transitions.observation).gather(1, transitions.action[:, None])[:, 0]
        huber = torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5)
        rule.zero_grad()
        (huber * (1.0 if weight is None else weight)).mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), recipe.max_grad_norm)
        rule.step()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    run.update(batch)
    vectors = [torch.nn.utils.parameters_to_vector(m.parameters()) for m in (model, plain)]
    difference, change = (vectors[0] - vectors[1]).abs().max(), (vectors[0] - before).abs().max()
    print(f"moved by {change:.2g}, apart {difference:.2g}, chosen differently {differ}")
    assert change > 1e-3
    assert difference < 1e-6
    assert (differ > 0) == double
    assert (batch.weight is not None) == bool(alpha)


def test_dqn_updates_priorities_of_every_row():
    run = next(dqn.build(dataclasses.replace(SMOKE, per_alpha=1.0, gradient_steps=2, anneal_lr=False)))
    received = {}
    run.stream.sampler.update_priorities = lambda index, error: received.update(index=index, error=error)
    batch = next(run.stream)
    run.update(batch)
    assert torch.equal(received["index"], batch.index)
    assert len(received["error"]) == 2 * SMOKE.batch_size
    assert received["error"].std() > 0


@pytest.mark.parametrize(("interval", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 3]), (0, [])])
def test_dqn_target_network_update_interval(interval, expected):
    run = next(
        dqn.build(dataclasses.replace(SMOKE, target_update_interval=interval, gradient_steps=2, num_steps=8))
    )
    model = run.state["model"]
    assert ("target_network" in run.state) == bool(interval)
    copied = []
    for number in range(6):
        batch = next(run.stream)
        before = [p.detach().clone() for p in model.parameters()]
        run.update(batch)
        assert not torch.equal(before[0], next(model.parameters()))
        if interval:
            still = run.state["target_network"].parameters()
            if all(torch.equal(a, b) for a, b in zip(before, still, strict=True)):
                copied.append(number)
    assert copied == expected


class ConstantReward(gymnasium.Env):
    """Nothing happens and each step gives reward 1; a time limit truncates episodes after 10 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    ends = False

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), 1.0, self.ends and self.time == 10, False, {}


class TenSteps(ConstantReward):
    ends = True


gymnasium.register("PaidForEver-v0", entry_point=ConstantReward, max_episode_steps=10)
gymnasium.register("PaidTen-v0", entry_point=TenSteps)


@pytest.mark.parametrize(
    ("data", "n", "low", "high"),
    [("PaidForEver-v0", 1, 4.9, 5.1), ("PaidForEver-v0", 3, 4.9, 5.1), ("PaidTen-v0", 1, 4.3, 4.6)],
)
def test_dqn_value_bootstraps_at_time_limits(data, n, low, high):
    """One state with reward 1 for ever has value 1/(1-γ) = 5, however short the time limit. Where one
    step in ten terminates the episode, the slopes of H balance at 0.9 (1 + γQ - Q) = 0.1, so Q = 4.44."""
    options = {
        "gamma": 0.8,
        "lr": 3e-3,
        "hidden": (16,),
        "learning_starts": 2000,
        "num_steps": 16,
        "target_update_interval": 1,
        "total_timesteps": 60 * 16,
    }
    recipe = dataclasses.replace(SMOKE, data=data, n_step=n, batch_size=256, gradient_steps=16, **options)
    run = next(dqn.build(recipe))
    for _ in range(recipe.updates):
        run.update(next(run.stream))
    value = run.state["model"](torch.zeros(1, 1)).mean().item()
    print(f"{data}, {n} steps: the learned value is {value:.3f}")
    assert low < value < high


def test_dqn_clips_rewards_but_not_returns():
    gymnasium.register("PaidMuch-v0", entry_point=LargeRewards, max_episode_steps=10)
    for clip, expected in ((True, {1.0, -1.0}), (False, {7.0, -3.0})):
        recipe = dataclasses.replace(
            SMOKE, data="PaidMuch-v0", learning_starts=100, n_step=1, clip_rewards=clip
        )
        batch = next(next(dqn.build(recipe)).stream)
        assert set(batch.transitions.reward.tolist()) == expected
        assert set(batch.returns) == {5 * 7.0 - 5 * 3.0}


class LargeRewards(ConstantReward):
    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), 7.0 if self.time % 2 else -3.0, False, False, {}


def test_dueling_centers_advantages():
    torch.manual_seed(0)
    model = dqn.QNetwork((4,), 3, dueling=True)
    x = torch.randn(5, 4)
    q, inner = model(x), model.body(x)
    assert torch.allclose(q.mean(1), model.value(inner)[:, 0], atol=1e-6)
    spread = model.advantage(inner)
    assert torch.allclose(q - q[:, :1], spread - spread[:, :1], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "on_disk"),
    [
        ({}, False),
        ({"per_alpha": 0.6, "n_step": 2}, False),
        ({"data": "Acrobot-v1", "num_envs": 2, "double_q": True}, False),
        ({"num_steps": 48}, True),
    ],
)
@pytest.mark.sweep
def test_dqn_resumes_bit_exact(changes, on_disk, tmp_path, monkeypatch):
    if on_disk:  # the frames are saved beside the checkpoints
        monkeypatch.setattr(replay_buffer, "SPILL_BYTES", 0)
        monkeypatch.setattr(disk_buffer, "CHUNK_BYTES", 16 * 32)
    recipe = dataclasses.replace(
        SMOKE,
        total_timesteps=12 * changes.get("num_steps", 64) * changes.get("num_envs", 1),
        gradient_steps=4,
        buffer_size=600,
        **changes,
    )
    full = next(dqn.build(recipe))
    fit(full, tmp_path / "full", quiet=True)
    part = next(dqn.build(recipe))
    inner, count = part.update, iter(range(100))

    def interrupted(batch):
        if next(count) == 7:
            raise Interrupted("here", 2)
        return inner(batch)

    part.update = interrupted
    with pytest.raises(Interrupted):
        fit(part, tmp_path / "part", quiet=True, intervals=Intervals(save=5))
    again = next(dqn.build(recipe))
    with torch.no_grad():
        for p in again.state["model"].parameters():
            p.add_(1)
    fit(again, tmp_path / "part", quiet=True)
    ours, theirs = (torch.load(tmp_path / n / "checkpoint/state.pt") for n in ("full", "part"))
    for name in ("action", "reward", "end") if on_disk else ("frame", "action", "reward", "end"):
        assert torch.equal(ours["stream"]["buffer"][name], theirs["stream"]["buffer"][name]), name
    assert torch.equal(full.stream.buffer.frame, again.stream.buffer.frame)
    assert any((tmp_path / "part").glob("memory/*.bin")) == on_disk
    models = [run.state["model"].parameters() for run in (full, again)]
    assert all(torch.equal(a, b) for a, b in zip(*models, strict=True))
    print(changes, len(full.stream.buffer), "steps held", full.stream.env_steps, "env steps")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": "Pendulum-v1"}, "continuous actions.*ddpg or ppo"),
        ({"buffer_size": 10}, "cannot hold the 64"),
        ({"gradient_steps": 0}, "gradient_steps must be at least 1"),
        ({"n_step": 0}, "must be at least 1"),
    ],
)
def test_dqn_refuses_invalid_recipes(changes, match):
    with pytest.raises(BadInput, match=match):
        next(dqn.build(dataclasses.replace(SMOKE, **changes)))


@pytest.mark.sweep
def test_dqn_replay_of_atari_frames_equals_observations():
    """Pong from its screens: what is batch is what was acted on, life lost or not."""
    recipe = dataclasses.replace(
        dqn.RECIPES["pong"],
        data="ALE/Breakout-v5",
        device="cpu",
        num_envs=2,
        num_steps=30,
        gradient_steps=1,
        batch_size=16,
        buffer_size=200,
        learning_starts=60,
        record_video=False,
    )
    for num_envs in (2, 1):
        stream = next(dqn.build(dataclasses.replace(recipe, num_envs=num_envs))).stream
        observations, inner = [], stream.buffer.add

        def add(observation, *rest, observations=observations, inner=inner):
            observations.append(observation)
            return inner(observation, *rest)

        stream.buffer.add = add
        for _ in range(6):
            next(stream)
        acted_on = torch.cat(observations).flatten(0, 1)
        held = len(stream.buffer)
        index = (stream.buffer.oldest + torch.arange(held)) % stream.buffer.num_rows
        transitions = stream.buffer.sample_at(index, 0.99)
        ends = int((transitions.discount == 0).sum())
        print(num_envs, "envs:", held, "stacks of frames held,", ends, "ends")
        assert torch.equal(transitions.observation, acted_on[-held:])
        continues = transitions.discount[:-num_envs] > 0
        assert torch.equal(
            transitions.next_observation[:-num_envs][continues], acted_on[-held + num_envs :][continues]
        )
        assert ends > 0


@pytest.mark.parametrize(
    ("wrappers", "is_stacked"),
    [(("AtariPreprocessing",), True), (("AtariPreprocessing", "FlattenObservation"), False)],
)
def test_dqn_replay_stacks_frames_only_where_they_are_atari_s(wrappers, is_stacked):
    changes = {"data": "ALE/Pong-v5", "wrappers": wrappers, "num_envs": 2, "buffer_size": 64, "num_steps": 4}
    recipe = dataclasses.replace(dqn.RECIPES["smoke"], device="cpu", eval_episodes=1, **changes)
    buffer = next(dqn.build(dataclasses.replace(recipe, max_episode_steps=8))).stream.buffer
    print(wrappers, buffer.shape, buffer.num_stack, buffer.frame.shape)
    assert buffer.num_stack == (4 if is_stacked else 1)
    assert buffer.frame[0].numel() == (84 * 84 if is_stacked else 4 * 84 * 84)
