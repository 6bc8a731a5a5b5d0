"""DDPG: updates equal stable-baselines3's, the actor ascends Q, and a run resumes bit for bit."""

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


def test_ddpg_updates_equal_stable_baselines3():
    import stable_baselines3
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    recipe = dataclasses.replace(
        SMOKE,
        hidden=(48, 32),
        gradient_steps=12,
        lr=2e-3,
        actor_lr=2e-3,
        max_episode_steps=30,
        learning_starts=200,
    )
    run = next(ddpg.build(recipe))
    model, target_network = run.state["model"], run.state["target_network"]
    algorithm = stable_baselines3.DDPG(
        "MlpPolicy",
        recipe.data,
        learning_rate=recipe.lr,
        batch_size=recipe.batch_size,
        tau=recipe.tau,
        gamma=recipe.gamma,
        buffer_size=1000,
        device="cpu",
        policy_kwargs={"net_arch": [48, 32]},
    )
    algorithm.set_logger(configure(None, []))
    theirs, their_target = halves(algorithm.policy)
    for net in (theirs, their_target):
        for p, own in zip(net.parameters(), model.parameters(), strict=True):
            p.data.copy_(own.detach())
    batch = next(run.stream)
    assert (batch.transitions.discount > 0).all()  # Pendulum never terminates
    minibatches = off_policy.minibatches(batch, recipe.batch_size)

    def sample(*_, **__):
        transitions = next(minibatches)[0]
        done = (transitions.discount == 0).float()[:, None]
        return ReplayBufferSamples(
            transitions.observation,
            transitions.action,
            transitions.next_observation,
            done,
            transitions.reward[:, None],
        )

    algorithm.replay_buffer.sample = sample
    before = [p.detach().clone() for p in model.parameters()]
    algorithm.train(gradient_steps=12, batch_size=recipe.batch_size)
    run.update(batch)
    for name, ours, other in (("online", model, theirs), ("target", target_network, their_target)):
        change, difference = 0.0, 0.0
        for was, now, their in zip(before, ours.parameters(), other.parameters(), strict=True):
            change = max(change, (now.detach() - was).abs().max().item())
            difference = max(difference, (now.detach() - their.detach()).abs().max().item())
        print(f"{name}: 12 updates moved weights by {change:.2g}, the two are {difference:.2g} apart")
        assert change > 1e-3
        assert difference < 1e-5


def test_ddpg_actor_ascends_q_and_leaves_critic():
    """With the critic's learning rate at 0 only the actor moves, and Q(s, μ(s)) rises."""
    recipe = dataclasses.replace(SMOKE, lr=0.0, actor_lr=1e-3, gradient_steps=4)
    run = next(ddpg.build(recipe))
    model = run.state["model"]
    critic = [p.detach().clone() for p in model.critic.parameters()]
    transitions = next(run.stream).transitions
    before = model(transitions.observation)[1].mean().item()
    for _ in range(10):
        run.update(next(run.stream))
    after = model(transitions.observation)[1].mean().item()
    print("Q of what the actor does, before and after", before, after)
    assert after > before + 0.01
    assert all(torch.equal(a, b) for a, b in zip(critic, model.critic.parameters(), strict=True))


def test_ddpg_rescales_actions_to_bounds():
    model = ddpg.DDPG((3,), 2, low=[-2.0, 0.0], high=[2.0, 10.0])
    ends = model.rescale_action(torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]))
    assert ends.tolist() == [[-2, 0], [0, 5], [2, 10]]
    run = next(ddpg.build(dataclasses.replace(SMOKE, learning_starts=1500)))
    actions, inner = [], run.stream.envs.step
    run.stream.envs.step = lambda action: actions.append(action) or inner(action)
    stored = next(run.stream).transitions.action
    actions = torch.cat(actions)
    print("actions", actions.min().item(), actions.max().item(), "stored", stored.min(), stored.max())
    assert actions.min() < -1.98
    assert actions.max() > 1.98
    assert stored.abs().max() <= 1


def test_ddpg_paper_critic_takes_action_at_second_layer():
    torch.manual_seed(0)
    model = ddpg.VARIANTS["ddpg_paper"].make()
    assert model.critic.observation_layer.weight.shape == (400, 11)
    assert model.critic.layers[0].weight.shape == (300, 403)
    x, a = torch.randn(5, 11), torch.randn(5, 3)
    hidden = torch.cat(
        [(x @ model.critic.observation_layer.weight.T + model.critic.observation_layer.bias).relu(), a], 1
    )
    hidden = (hidden @ model.critic.layers[0].weight.T + model.critic.layers[0].bias).relu()
    expected = hidden @ model.critic.layers[2].weight[0] + model.critic.layers[2].bias
    assert torch.allclose(model.critic(x, a), expected, atol=1e-6)
    assert model.critic.layers[2].weight.abs().max() < 3e-3
    assert model.actor(x).abs().max() < 0.1


@pytest.mark.parametrize("changes", [{"theta": 0.15}, {"num_envs": 3, "n_step": 2, "max_episode_steps": 20}])
def test_ddpg_resumes_bit_exact(changes, tmp_path):
    recipe = dataclasses.replace(
        SMOKE,
        total_timesteps=12 * 8 * changes.get("num_envs", 1),
        gradient_steps=2,
        learning_starts=100,
        buffer_size=180,
        **changes,
    )
    full = next(ddpg.build(recipe))
    fit(full, tmp_path / "full", quiet=True)
    part = next(ddpg.build(recipe))
    inner, count = part.update, iter(range(100))

    def interrupted(batch):
        if next(count) == 7:
            raise Interrupted("here", 2)
        return inner(batch)

    part.update = interrupted
    with pytest.raises(Interrupted):
        fit(part, tmp_path / "part", quiet=True, intervals=Intervals(save=5))
    again = next(ddpg.build(recipe))
    fit(again, tmp_path / "part", quiet=True)
    ours, theirs = (torch.load(tmp_path / n / "checkpoint/state.pt") for n in ("full", "part"))
    for name in ("frame", "action", "reward", "end"):
        assert torch.equal(ours["stream"]["buffer"][name], theirs["stream"]["buffer"][name]), name
    models = [run.state["model"].parameters() for run in (full, again)]
    assert all(torch.equal(a, b) for a, b in zip(*models, strict=True))
    explorers = [ours["stream"]["explorer"]["state"], theirs["stream"]["explorer"]["state"]]
    assert torch.equal(*explorers)
    assert explorers[0].any() == ("theta" in changes)


def test_ddpg_refuses_discrete_actions():
    with pytest.raises(BadInput, match=r"discrete actions.*dqn, a2c or ppo"):
        next(ddpg.build(dataclasses.replace(SMOKE, data="CartPole-v1")))
