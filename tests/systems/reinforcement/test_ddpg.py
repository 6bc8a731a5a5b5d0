"""DDPG: whole updates are stable-baselines3's, the actor climbs Q, and a run goes on bit for bit."""

import dataclasses

import pytest
import torch

from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput, Interrupted
from torchstone.systems.reinforcement import ddpg
from torchstone.tasks.rl import off_policy

SMOKE = dataclasses.replace(ddpg.RECIPES["smoke"], device="cpu")


def halves(policy):
    """stable-baselines3's four networks as two modules in the order of ours."""
    return (
        torch.nn.ModuleList([policy.actor, policy.critic]),
        torch.nn.ModuleList([policy.actor_target, policy.critic_target]),
    )


def test_updates_are_stable_baselines3s():
    import stable_baselines3
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    recipe = dataclasses.replace(
        SMOKE, hidden=(48, 32), gradients=12, lr=2e-3, actor_lr=2e-3, limit=30, first=200
    )
    run = next(ddpg.build(recipe))
    model, copy = run.state["model"], run.state["copy"]
    algorithm = stable_baselines3.DDPG(
        "MlpPolicy", recipe.data, learning_rate=recipe.lr, batch_size=recipe.batch, tau=recipe.tau,
        gamma=recipe.gamma, buffer_size=1000, device="cpu", policy_kwargs={"net_arch": [48, 32]},
    )  # fmt: skip
    algorithm.set_logger(configure(None, []))
    theirs, their_copy = halves(algorithm.policy)
    for net in (theirs, their_copy):
        for p, own in zip(net.parameters(), model.parameters(), strict=True):
            p.data.copy_(own.detach())
    drawn = next(run.stream)
    assert (drawn.rows.discount > 0).all()  # Pendulum is only ever cut
    given = off_policy.minibatches(drawn, recipe.batch)

    def sample(*_, **__):
        rows = next(given)[0]
        over = (rows.discount == 0).float()[:, None]
        return ReplayBufferSamples(rows.observation, rows.action, rows.following, over, rows.reward[:, None])

    algorithm.replay_buffer.sample = sample
    before = [p.detach().clone() for p in model.parameters()]
    algorithm.train(gradient_steps=12, batch_size=recipe.batch)
    run.update(drawn)
    for name, ours, other in (("nets", model, theirs), ("copies", copy, their_copy)):
        went, far = 0.0, 0.0
        for was, now, their in zip(before, ours.parameters(), other.parameters(), strict=True):
            went = max(went, (now.detach() - was).abs().max().item())
            far = max(far, (now.detach() - their.detach()).abs().max().item())
        print(f"{name}: 12 updates moved weights by {went:.2g}, the two are {far:.2g} apart")
        assert went > 1e-3
        assert far < 1e-5


def test_the_actor_climbs_the_critic_and_leaves_it_alone():
    """With the critic's learning rate at 0 only the actor moves, and Q(s, μ(s)) rises."""
    recipe = dataclasses.replace(SMOKE, lr=0.0, actor_lr=1e-3, gradients=4)
    run = next(ddpg.build(recipe))
    model = run.state["model"]
    critic = [p.detach().clone() for p in model.critic.parameters()]
    rows = next(run.stream).rows
    before = model(rows.observation)[1].mean().item()
    for _ in range(10):
        run.update(next(run.stream))
    after = model(rows.observation)[1].mean().item()
    print("Q of what the actor does, before and after", before, after)
    assert after > before + 0.01
    assert all(torch.equal(a, b) for a, b in zip(critic, model.critic.parameters(), strict=True))


def test_actions_are_spread_over_the_worlds_bounds():
    model = ddpg.DDPG((3,), 2, low=[-2.0, 0.0], high=[2.0, 10.0])
    ends = model.scaled(torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]))
    assert ends.tolist() == [[-2, 0], [0, 5], [2, 10]]
    run = next(ddpg.build(dataclasses.replace(SMOKE, first=1500)))
    taken, inner = [], run.stream.worlds.step
    run.stream.worlds.step = lambda action: taken.append(action) or inner(action)
    kept = next(run.stream).rows.action
    taken = torch.cat(taken)
    print("taken", taken.min().item(), taken.max().item(), "kept", kept.min(), kept.max())
    assert taken.min() < -1.98
    assert taken.max() > 1.98
    assert kept.abs().max() <= 1


def test_the_papers_critic_takes_the_action_late():
    torch.manual_seed(0)
    model = ddpg.VARIANTS["ddpg_paper"].make()
    assert model.critic.see.weight.shape == (400, 11)
    assert model.critic.judge[0].weight.shape == (300, 403)
    x, a = torch.randn(5, 11), torch.randn(5, 3)
    hidden = torch.cat([(x @ model.critic.see.weight.T + model.critic.see.bias).relu(), a], 1)
    hidden = (hidden @ model.critic.judge[0].weight.T + model.critic.judge[0].bias).relu()
    wanted = hidden @ model.critic.judge[2].weight[0] + model.critic.judge[2].bias
    assert torch.allclose(model.critic(x, a), wanted, atol=1e-6)
    assert model.critic.judge[2].weight.abs().max() < 3e-3
    assert model.actor(x).abs().max() < 0.1


@pytest.mark.parametrize("changes", [{"theta": 0.15}, {"worlds": 3, "n": 2, "limit": 20}])
def test_a_run_cut_off_goes_on_to_the_bit(changes, tmp_path):
    recipe = dataclasses.replace(SMOKE, steps=12, gradients=2, first=100, memory=180, **changes)
    whole = next(ddpg.build(recipe))
    fit(whole, tmp_path / "whole", quiet=True)
    cut = next(ddpg.build(recipe))
    inner, count = cut.update, iter(range(100))

    def interrupted(batch):
        if next(count) == 7:
            raise Interrupted("here", 2)
        return inner(batch)

    cut.update = interrupted
    with pytest.raises(Interrupted):
        fit(cut, tmp_path / "cut", quiet=True, intervals=Intervals(save=5))
    again = next(ddpg.build(recipe))
    fit(again, tmp_path / "cut", quiet=True)
    ours, theirs = (torch.load(tmp_path / n / "checkpoint/state.pt") for n in ("whole", "cut"))
    for name in ("frame", "action", "reward", "end"):
        assert torch.equal(ours["stream"]["memory"][name], theirs["stream"]["memory"][name]), name
    models = [run.state["model"].parameters() for run in (whole, again)]
    assert all(torch.equal(a, b) for a, b in zip(*models, strict=True))
    explorers = [ours["stream"]["explorer"]["state"], theirs["stream"]["explorer"]["state"]]
    assert torch.equal(*explorers)
    assert explorers[0].any() == ("theta" in changes)


def test_actions_to_choose_among_are_refused():
    with pytest.raises(BadInput, match=r"discrete actions.*dqn, a2c or ppo"):
        next(ddpg.build(dataclasses.replace(SMOKE, data="CartPole-v1")))
