"""PPO: an update equals stable-baselines3's, time limits are bootstrapped, minibatches cover the rollout."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.envs.rollouts import Rollout
from torchstone.errors import BadInput
from torchstone.references.rl import convert_actor_critic
from torchstone.systems.reinforcement import ppo
from torchstone.tasks.rl import on_policy
from torchstone.tasks.rl.on_policy import PolicyInputs, RolloutBatch

SMOKE = dataclasses.replace(ppo.RECIPES["smoke"], device="cpu")


def weights(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def fill_rollout_buffer(algorithm, rollout: Rollout) -> None:
    """Put one of our rollouts into stable-baselines3's buffer, as its own collection would."""
    buffer, policy = algorithm.rollout_buffer, algorithm.policy
    length, envs = rollout.reward.shape
    starts = torch.ones(envs)
    done = (rollout.terminated | rollout.truncated).float()
    reward = rollout.reward.clone()
    is_truncated = rollout.truncated & ~rollout.terminated
    with torch.no_grad():
        reward[is_truncated] += algorithm.gamma * policy.predict_values(rollout.final_observations)[:, 0]
        buffer.reset()
        for t in range(length):
            value, log_prob, _ = policy.evaluate_actions(rollout.observation[t], rollout.action[t])
            action = rollout.action[t].reshape(envs, -1).numpy()
            rows = (rollout.observation[t].numpy(), action, reward[t].numpy(), starts.numpy())
            buffer.add(*rows, value, log_prob)
            starts = done[t]
        last = policy.predict_values(rollout.last_observation)
    buffer.compute_returns_and_advantage(last_values=last, dones=done[-1].numpy())


def make_sb3(kind: str, recipe, spec: str, model, **options):
    """stable-baselines3's algorithm with our weights."""
    import stable_baselines3
    from stable_baselines3.common.logger import configure

    sizes = {"pi": list(recipe.hidden), "vf": list(recipe.hidden)}
    env = stable_baselines3.common.env_util.make_vec_env(spec, recipe.num_envs, seed=0)
    algorithm = getattr(stable_baselines3, kind)(
        "MlpPolicy",
        env,
        n_steps=recipe.num_steps,
        gamma=recipe.gamma,
        gae_lambda=recipe.gae_lambda,
        ent_coef=recipe.ent_coef,
        vf_coef=recipe.vf_coef,
        max_grad_norm=recipe.max_grad_norm,
        learning_rate=recipe.lr,
        policy_kwargs={"net_arch": sizes},
        device="cpu",
        **options,
    )
    algorithm.set_logger(configure(None, []))
    ours = weights(model)
    names = convert_actor_critic(
        {n: torch.tensor(i) for i, n in enumerate(dict(algorithm.policy.named_parameters()))}
    )
    order = list(dict(algorithm.policy.named_parameters()))
    state = {order[int(index)]: ours[name] for name, index in names.items()}
    algorithm.policy.load_state_dict(state, strict=False)
    assert weight_difference(ours, algorithm) == 0
    return algorithm


def weight_difference(ours: dict[str, torch.Tensor], algorithm) -> float:
    other = convert_actor_critic({n: p.detach() for n, p in algorithm.policy.named_parameters()})
    assert other.keys() == ours.keys()
    return max(float((ours[n] - other[n]).abs().max()) for n in ours)


@pytest.mark.parametrize(
    ("data", "changes"),
    [("CartPole-v1", {}), ("CartPole-v1", {"ent_coef": 0.01}), ("Pendulum-v1", {"ent_coef": 0.01})],
)
def test_ppo_update_equals_stable_baselines3(data, changes):
    options = {
        "anneal_lr": False,
        "epochs": 4,
        "lr": 3e-3,
        "num_steps": 64,
        "batch_size": 512,
        "max_episode_steps": 25,
    }
    recipe = dataclasses.replace(SMOKE, data=data, **options, **changes)
    run = next(ppo.build(recipe))
    model = run.state["model"]
    rollout = next(run.stream)
    assert len(rollout.final_observations) > 4
    other = make_sb3("PPO", recipe, data, model, n_epochs=4, batch_size=512, clip_range=0.2)
    fill_rollout_buffer(other, rollout)
    before = weights(model)
    other._current_progress_remaining = 1.0
    other.train()
    run.update(rollout)
    after = weights(model)
    change = max(float((after[n] - before[n]).abs().max()) for n in after)
    difference = weight_difference(after, other)
    print(f"{data} {changes}: the update moved weights by {change:.2g}, the two are {difference:.2g} apart")
    assert change > 3e-3
    assert difference < 1e-5


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


gymnasium.register("ConstantReward-v0", entry_point=ConstantReward, max_episode_steps=10)
gymnasium.register("TenSteps-v0", entry_point=TenSteps)


@pytest.mark.parametrize(
    ("data", "low", "high"), [("ConstantReward-v0", 4.7, 5.3), ("TenSteps-v0", 2.0, 4.4)]
)
def test_ppo_value_bootstraps_at_time_limits(data, low, high):
    """One state with reward 1 for ever has value 1/(1-γ) = 5, however short the time limit; where episodes
    terminate after 10 steps, its value is the mean of (1-γ^k)/(1-γ) over k = 1..10, 3.2."""
    recipe = dataclasses.replace(SMOKE, data=data, gamma=0.8, gae_lambda=0.9, lr=1e-2, num_steps=20)
    run = next(ppo.build(recipe))
    for _ in range(60):
        run.update(next(run.stream))
    value = run.state["model"].value(torch.zeros(1, 1)).item()
    print(f"{data}: the learned value is {value:.3f}")
    assert low < value < high


def test_ppo_clipped_value_loss_takes_the_larger_error():
    """max((V - R)², (V_old + clip(V - V_old, ±ε) - R)²), row by row."""
    recipe = dataclasses.replace(SMOKE, clip_vloss=True)
    run = next(ppo.build(recipe))
    model = run.state["model"]
    batch = on_policy.make_batch(model, next(run.stream), recipe.gamma, recipe.gae_lambda)
    torch.manual_seed(0)
    batch = batch._replace(value=batch.value + torch.randn(len(batch.value)))
    value_loss = ppo.loss(model, batch, recipe, torch.tensor(0.2))["value_loss"].item()
    total, clipped, count = 0.0, 0, len(batch.value)
    columns = (model.value(batch.inputs.observation), batch.value, batch.returns)
    for value, old, target in zip(*(column.tolist() for column in columns), strict=True):
        clipped_value = min(max(value, old - 0.2), old + 0.2)
        total += max((value - target) ** 2, (clipped_value - target) ** 2)
        clipped += (clipped_value - target) ** 2 > (value - target) ** 2
    print("value loss", value_loss, "expected", total / count, "clipped rows", clipped)
    assert clipped > 20
    assert abs(value_loss - total / count) < 1e-4 * value_loss


def test_ppo_minibatches_cover_all_rows_per_epoch():
    recipe = dataclasses.replace(SMOKE, batch_size=30, epochs=3)
    number = torch.arange(100.0)
    rollout = RolloutBatch(PolicyInputs(number[:, None]), *[number] * 5)
    batches = list(ppo.minibatches(rollout, recipe, 0))
    assert [len(b.action) for b in batches] == [30, 30, 30, 10] * 3
    epochs = [torch.cat([b.action for b in batches[k : k + 4]]) for k in (0, 4, 8)]
    assert all(torch.equal(e.sort().values, number) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    again = list(ppo.minibatches(rollout, recipe, 0))
    assert all(torch.equal(a.action, b.action) for a, b in zip(batches, again, strict=True))
    other = list(ppo.minibatches(rollout, recipe, 1))
    assert not torch.equal(batches[0].action, other[0].action)
    for batch in batches:
        for column in (batch.inputs.observation[:, 0], batch.log_prob, batch.value, batch.returns):
            assert torch.equal(column, batch.action)
        assert abs(float(batch.advantage.mean())) < 1e-5
        assert abs(float(batch.advantage.std()) - 1) < 1e-4


def test_ppo_minibatches_of_frames_keep_channels_last():
    recipe = dataclasses.replace(SMOKE, batch_size=8, epochs=1)
    frames = torch.randint(256, (20, 4, 6, 5), dtype=torch.uint8)
    number = torch.arange(20.0)
    for layout in (torch.channels_last, torch.contiguous_format):
        inputs = PolicyInputs(frames.contiguous(memory_format=layout))
        for batch in ppo.minibatches(RolloutBatch(inputs, *[number] * 5), recipe, 0):
            assert torch.equal(batch.inputs.observation, frames[batch.action.long()])
            assert batch.inputs.observation.is_contiguous(memory_format=torch.channels_last)


def test_ppo_refuses_raw_frames():
    with pytest.raises(BadInput, match="AtariPreprocessing"):
        next(ppo.build(dataclasses.replace(SMOKE, data="ALE/Pong-v5")))


@pytest.mark.parametrize(("num_steps", "batch_size"), [(5, 4), (2, 1)])
def test_ppo_minibatch_of_one_step_stays_finite(num_steps, batch_size):
    """One advantage has no deviation: it stays as it is, and no variance is explained."""
    changes = {
        "num_envs": 1,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "epochs": 2,
        "eval_episodes": 1,
    }
    run = next(ppo.build(dataclasses.replace(ppo.RECIPES["smoke"], device="cpu", **changes)))
    metrics = run.update(next(run.stream))
    print({name: float(value) for name, value in metrics.items()})
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(torch.isfinite(p).all() for p in run.state["model"].parameters())
    assert "explained_variance" not in metrics
