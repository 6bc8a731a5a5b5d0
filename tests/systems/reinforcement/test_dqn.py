"""DQN: whole updates are stable-baselines3's, its parts do what they say, and a run goes on bit for bit."""

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


def theirs(recipe, model):
    """stable-baselines3's algorithm with our weights, its memory drawing what ours drew."""
    import stable_baselines3
    from stable_baselines3.common.logger import configure

    made = stable_baselines3.DQN(
        "MlpPolicy", recipe.data, learning_rate=recipe.lr, batch_size=recipe.batch,
        gamma=recipe.gamma, max_grad_norm=recipe.norm, buffer_size=1000, device="cpu",
        policy_kwargs={"net_arch": list(recipe.hidden)},
    )  # fmt: skip
    made.set_logger(configure(None, []))
    for net in (made.q_net, made.q_net_target):
        for p, own in zip(net.parameters(), model.parameters(), strict=True):
            p.data.copy_(own)
    return made


def feed(algorithm, minibatches) -> None:
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    given = iter(minibatches)

    def sample(*_, **__):
        rows = next(given)[0]
        over = (rows.discount == 0).float()[:, None]
        column = (rows.action[:, None], rows.following, over, rows.reward[:, None])
        return ReplayBufferSamples(rows.observation, *column)

    algorithm.replay_buffer.sample = sample


@pytest.mark.parametrize("data", ["CartPole-v1", "Acrobot-v1"])
def test_one_update_is_stable_baselines3s(data):
    recipe = dataclasses.replace(
        SMOKE, data=data, hidden=(48, 32), gradients=16, lr=3e-3, limit=30, first=200, anneal=False
    )
    run = next(dqn.build(recipe))
    model = run.state["model"]
    for _ in range(3):
        run.update(next(run.stream))
    # two networks alike to begin with, and an optimiser that has seen nothing
    recipe = dataclasses.replace(recipe, target=1)
    fresh = next(dqn.build(recipe))
    model = fresh.state["model"]
    drawn = next(run.stream)
    drawn = drawn._replace(number=0)
    other = theirs(recipe, model)
    feed(other, off_policy.minibatches(drawn, recipe.batch))
    before = [p.detach().clone() for p in model.parameters()]
    other.train(gradient_steps=16, batch_size=recipe.batch)
    fresh.update(drawn)
    pairs = zip(before, model.parameters(), other.q_net.parameters(), strict=True)
    went, far = 0.0, 0.0
    for was, now, their in pairs:
        went = max(went, (now - was).abs().max().item())
        far = max(far, (now - their).abs().max().item())
    print(f"{data}: 16 steps moved weights by {went:.2g}, the two are {far:.2g} apart")
    assert went > 1e-2
    assert far < 1e-5


def test_weights_of_priorities_and_targets_enter_the_loss():
    """Σ w H(y - Q) / n with y of double Q-learning, row by row."""
    recipe = dataclasses.replace(SMOKE, alpha=0.6, double=True, n=3)
    run = next(dqn.build(recipe))
    for _ in range(3):
        run.update(next(run.stream))
    model, frozen = run.state["model"], run.state["frozen"]
    with torch.no_grad():  # so that the two choose differently
        frozen.advantage[2].bias.copy_(torch.tensor([0.3, 0.0]))
    drawn = next(run.stream)
    rows, weight = next(off_policy.minibatches(drawn, recipe.batch))
    y = dqn.targets(model, frozen, rows, True)
    found, errors = dqn.loss(model, rows, weight, y)
    total = 0.0
    with torch.no_grad():
        q, mine, still = model(rows.observation), model(rows.following), frozen(rows.following)
    for i in range(recipe.batch):
        best = still[i, mine[i].argmax()]
        error = (rows.reward[i] + rows.discount[i] * best - q[i, rows.action[i]]).item()
        assert errors[i].item() == pytest.approx(error, abs=1e-5)
        huber = error**2 / 2 if abs(error) < 1 else abs(error) - 0.5
        total += weight[i].item() * huber / recipe.batch
    print("loss", found["loss"].item(), "wanted", total, "weights", weight.min(), weight.max())
    assert found["loss"].item() == pytest.approx(total, rel=1e-5)
    assert weight.min() < 0.9
    assert not torch.equal(mine.argmax(1), still.argmax(1)), (mine, still)


@pytest.mark.parametrize(("double", "alpha"), [(True, 0.6), (True, 0.0), (False, 0.6)])
def test_an_update_is_the_rule_written_out(double, alpha):
    """Two steps of Adam down Σ w H(y - Q) / n, the copy standing still, by plain autograd."""
    options = {"double": double, "alpha": alpha, "n": 2, "gradients": 2, "lr": 3e-3, "norm": 0.5}
    recipe = dataclasses.replace(SMOKE, target=9, first=200, anneal=False, duelling=True, **options)
    run = next(dqn.build(recipe))
    model, frozen = run.state["model"], run.state["frozen"]
    run.update(next(run.stream))  # the two are no longer alike
    with torch.no_grad():  # so that they choose differently
        frozen.advantage[2].bias.copy_(torch.tensor([0.3, 0.0]))
    drawn = next(run.stream)
    plain = copy.deepcopy(model)
    rule = torch.optim.Adam(plain.parameters(), lr=recipe.lr)
    state = run.state["optimiser"].state_dict()["state"][0]
    sizes = [p.numel() for p in plain.parameters()]
    moments = zip(state["exp_avg"].split(sizes), state["exp_avg_sq"].split(sizes), strict=True)
    for p, (one, two) in zip(plain.parameters(), moments, strict=True):
        views = {"exp_avg": one.view_as(p).clone(), "exp_avg_sq": two.view_as(p).clone()}
        rule.state[p] = {"step": state["step"].clone(), **views}
    differ = 0
    for rows, weight in off_policy.minibatches(drawn, recipe.batch):
        with torch.no_grad():
            judged = frozen(rows.following)
            best = (plain if double else frozen)(rows.following).argmax(1)
            differ += (best != judged.argmax(1)).sum().item()
            y = rows.reward + rows.discount * judged.gather(1, best[:, None])[:, 0]
        error = y - plain(rows.observation).gather(1, rows.action[:, None])[:, 0]
        huber = torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5)
        rule.zero_grad()
        (huber * (1.0 if weight is None else weight)).mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), recipe.norm)
        rule.step()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    run.update(drawn)
    vectors = [torch.nn.utils.parameters_to_vector(m.parameters()) for m in (model, plain)]
    far, went = (vectors[0] - vectors[1]).abs().max(), (vectors[0] - before).abs().max()
    print(f"moved by {went:.2g}, apart {far:.2g}, chosen differently {differ}")
    assert went > 1e-3
    assert far < 1e-6
    assert (differ > 0) == double
    assert (drawn.weight is not None) == bool(alpha)


def test_priorities_are_told_of_every_row():
    run = next(dqn.build(dataclasses.replace(SMOKE, alpha=1.0, gradients=2, anneal=False)))
    told = {}
    run.stream.priorities.judge = lambda index, error: told.update(index=index, error=error)
    drawn = next(run.stream)
    run.update(drawn)
    assert torch.equal(told["index"], drawn.index)
    assert len(told["error"]) == 2 * SMOKE.batch
    assert told["error"].std() > 0


@pytest.mark.parametrize(("target", "renewed"), [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 3]), (0, [])])
def test_the_copy_is_renewed_every_so_many_updates(target, renewed):
    run = next(dqn.build(dataclasses.replace(SMOKE, target=target, gradients=2, length=8)))
    model = run.state["model"]
    assert ("frozen" in run.state) == bool(target)
    copied = []
    for number in range(6):
        drawn = next(run.stream)
        before = [p.detach().clone() for p in model.parameters()]
        run.update(drawn)
        assert not torch.equal(before[0], next(model.parameters()))
        if target:
            still = run.state["frozen"].parameters()
            if all(torch.equal(a, b) for a, b in zip(before, still, strict=True)):
                copied.append(number)
    assert copied == renewed


class Paid(gymnasium.Env):
    """Nothing happens and each step is paid 1, for ever; a clock cuts episodes after 10 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    ends = False

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), 1.0, self.ends and self.time == 10, False, {}


class Ending(Paid):
    ends = True


gymnasium.register("PaidForEver-v0", entry_point=Paid, max_episode_steps=10)
gymnasium.register("PaidTen-v0", entry_point=Ending)


@pytest.mark.parametrize(
    ("data", "n", "low", "high"),
    [("PaidForEver-v0", 1, 4.9, 5.1), ("PaidForEver-v0", 3, 4.9, 5.1), ("PaidTen-v0", 1, 4.3, 4.6)],
)
def test_a_time_limit_is_no_end(data, n, low, high):
    """One state, paid 1 for ever, is worth 1/(1-γ) = 5, however short a clock cuts its episodes. Where
    one step in ten truly ends them, the slopes of H balance at 0.9 (1 + γQ - Q) = 0.1, so Q = 4.44."""
    options = {"gamma": 0.8, "lr": 3e-3, "hidden": (16,), "first": 2000, "length": 16, "target": 1}
    recipe = dataclasses.replace(SMOKE, data=data, n=n, batch_size=256, gradients=16, **options)
    run = next(dqn.build(recipe))
    for _ in range(recipe.steps):
        run.update(next(run.stream))
    value = run.state["model"](torch.zeros(1, 1)).mean().item()
    print(f"{data}, {n} steps: the value learnt is {value:.3f}")
    assert low < value < high


def test_rewards_are_clipped_only_for_learning():
    gymnasium.register("PaidMuch-v0", entry_point=Much, max_episode_steps=10)
    for clip, wanted in ((True, {1.0, -1.0}), (False, {7.0, -3.0})):
        made = dataclasses.replace(SMOKE, data="PaidMuch-v0", first=100, n=1, clip=clip)
        drawn = next(next(dqn.build(made)).stream)
        assert set(drawn.rows.reward.tolist()) == wanted
        assert set(drawn.returns) == {5 * 7.0 - 5 * 3.0}


class Much(Paid):
    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), 7.0 if self.time % 2 else -3.0, False, False, {}


def test_duelling_centres_advantages():
    torch.manual_seed(0)
    model = dqn.QNetwork((4,), 3, duelling=True)
    x = torch.randn(5, 4)
    q, inner = model(x), model.body(x)
    assert torch.allclose(q.mean(1), model.worth(inner)[:, 0], atol=1e-6)
    spread = model.advantage(inner)
    assert torch.allclose(q - q[:, :1], spread - spread[:, :1], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "beside"),
    [
        ({}, False),
        ({"alpha": 0.6, "n": 2}, False),
        ({"data": "Acrobot-v1", "worlds": 2, "double": True}, False),
        ({"length": 48}, True),
    ],
)
def test_a_run_cut_off_goes_on_to_the_bit(changes, beside, tmp_path, monkeypatch):
    if beside:  # the frames are kept beside the checkpoints
        (
            monkeypatch.setattr(replay_buffer, "LARGE", 0),
            monkeypatch.setattr(disk_buffer, "PIECE", 16 * 32),
        )
    recipe = dataclasses.replace(SMOKE, steps=12, gradients=4, memory=600, **changes)
    whole = next(dqn.build(recipe))
    fit(whole, tmp_path / "whole", quiet=True)
    cut = next(dqn.build(recipe))
    inner, count = cut.update, iter(range(100))

    def interrupted(batch):
        if next(count) == 7:
            raise Interrupted("here", 2)
        return inner(batch)

    cut.update = interrupted
    with pytest.raises(Interrupted):
        fit(cut, tmp_path / "cut", quiet=True, intervals=Intervals(save=5))
    again = next(dqn.build(recipe))
    with torch.no_grad():
        for p in again.state["model"].parameters():
            p.add_(1)
    fit(again, tmp_path / "cut", quiet=True)
    ours, theirs = (torch.load(tmp_path / n / "checkpoint/state.pt") for n in ("whole", "cut"))
    for name in ("action", "reward", "end") if beside else ("frame", "action", "reward", "end"):
        assert torch.equal(ours["stream"]["memory"][name], theirs["stream"]["memory"][name]), name
    assert torch.equal(whole.stream.memory.frame, again.stream.memory.frame)
    assert any((tmp_path / "cut").glob("memory/*.bin")) == beside
    models = [run.state["model"].parameters() for run in (whole, again)]
    assert all(torch.equal(a, b) for a, b in zip(*models, strict=True))
    print(changes, len(whole.stream.memory), "steps held", whole.stream.frames, "lived")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": "Pendulum-v1"}, "continuous actions.*ddpg or ppo"),
        ({"memory": 10}, "cannot hold the 64"),
        ({"gradients": 0}, "gradients must be at least 1"),
        ({"n": 0}, "must be at least 1"),
        ({"optimiser": "sgd"}, "adam or rmsprop"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, match):
    with pytest.raises(BadInput, match=match):
        next(dqn.build(dataclasses.replace(SMOKE, **changes)))


def test_frames_are_remembered_as_they_were_seen():
    """Pong from its screens: what is drawn is what was acted on, life lost or not."""
    recipe = dataclasses.replace(
        dqn.RECIPES["pong"], data="ALE/Breakout-v5", device="cpu", worlds=2, length=30, gradients=1,
        batch_size=16, memory=200, first=60, film=False,
    )  # fmt: skip
    for worlds in (2, 1):
        stream = next(dqn.build(dataclasses.replace(recipe, worlds=worlds))).stream
        seen, inner = [], stream.memory.add

        def add(observation, *rest, seen=seen, inner=inner):
            seen.append(observation)
            return inner(observation, *rest)

        stream.memory.add = add
        for _ in range(6):
            next(stream)
        lived = torch.cat(seen).flatten(0, 1)
        held = len(stream.memory)
        index = (stream.memory.oldest + torch.arange(held)) % stream.memory.total
        rows = stream.memory.rows(index, 0.99)
        ends = int((rows.discount == 0).sum())
        print(worlds, "worlds:", held, "screens held,", ends, "ends")
        assert torch.equal(rows.observation, lived[-held:])
        going = rows.discount[:-worlds] > 0
        assert torch.equal(rows.following[:-worlds][going], lived[-held + worlds :][going])
        assert ends > 0
