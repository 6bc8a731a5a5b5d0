"""PPO: a whole update is stable-baselines3's, a time limit is no end, and a run goes on bit for bit."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.envs.rollouts import Rollout
from torchstone.errors import BadInput
from torchstone.references.rl import convert_actor_critic
from torchstone.systems.reinforcement import ppo

SMOKE = dataclasses.replace(ppo.RECIPES["smoke"], device="cpu")


def weights(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def fed(algorithm, rollout: Rollout) -> None:
    """Put a rollout of ours into stable-baselines3's buffer, as its own collection would."""
    buffer, policy = algorithm.rollout_buffer, algorithm.policy
    length, worlds = rollout.reward.shape
    starts = torch.ones(worlds)
    ended = (rollout.terminated | rollout.truncated).float()
    bonus = rollout.reward.clone()
    cut = rollout.truncated & ~rollout.terminated
    with torch.no_grad():
        bonus[cut] += algorithm.gamma * policy.predict_values(rollout.cuts)[:, 0]
        buffer.reset()
        for t in range(length):
            value, log_prob, _ = policy.evaluate_actions(rollout.observation[t], rollout.action[t])
            action = rollout.action[t].reshape(worlds, -1).numpy()
            rows = (rollout.observation[t].numpy(), action, bonus[t].numpy(), starts.numpy())
            buffer.add(*rows, value, log_prob)
            starts = ended[t]
        last = policy.predict_values(rollout.last)
    buffer.compute_returns_and_advantage(last_values=last, dones=ended[-1].numpy())


def theirs(kind: str, recipe, spec: str, model, **options):
    """stable-baselines3's algorithm with our weights."""
    import stable_baselines3
    from stable_baselines3.common.logger import configure

    sizes = {"pi": list(recipe.hidden), "vf": list(recipe.hidden)}
    env = stable_baselines3.common.env_util.make_vec_env(spec, recipe.worlds, seed=0)
    made = getattr(stable_baselines3, kind)(
        "MlpPolicy", env, n_steps=recipe.length, gamma=recipe.gamma, gae_lambda=recipe.lam,
        ent_coef=recipe.entropy, vf_coef=recipe.value, max_grad_norm=recipe.norm,
        learning_rate=recipe.lr, policy_kwargs={"net_arch": sizes}, device="cpu", **options,
    )  # fmt: skip
    made.set_logger(configure(None, []))
    ours = weights(model)
    names = convert_actor_critic(
        {n: torch.tensor(i) for i, n in enumerate(dict(made.policy.named_parameters()))}
    )
    order = list(dict(made.policy.named_parameters()))
    state = {order[int(index)]: ours[name] for name, index in names.items()}
    made.policy.load_state_dict(state, strict=False)
    assert weights_apart(ours, made) == 0
    return made


def weights_apart(ours: dict[str, torch.Tensor], algorithm) -> float:
    other = convert_actor_critic({n: p.detach() for n, p in algorithm.policy.named_parameters()})
    assert other.keys() == ours.keys()
    return max(float((ours[n] - other[n]).abs().max()) for n in ours)


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"entropy": 0.01}),
        ("Pendulum-v1", {"entropy": 0.01}),
    ],
)
def test_one_update_is_stable_baselines3s(data, changes):
    options = {"anneal": False, "epochs": 4, "lr": 3e-3, "length": 64, "batch": 512, "limit": 25}
    recipe = dataclasses.replace(SMOKE, data=data, **options, **changes)
    run = next(ppo.build(recipe))
    model = run.state["model"]
    rollout = next(run.stream)
    assert len(rollout.cuts) > 4
    other = theirs("PPO", recipe, data, model, n_epochs=4, batch_size=512, clip_range=0.2)
    fed(other, rollout)
    before = weights(model)
    other._current_progress_remaining = 1.0
    other.train()
    run.update(rollout)
    after = weights(model)
    went = max(float((after[n] - before[n]).abs().max()) for n in after)
    far = weights_apart(after, other)
    print(f"{data} {changes}: the update moved weights by {went:.2g}, the two are {far:.2g} apart")
    assert went > 3e-3
    assert far < 1e-5


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


gymnasium.register("Paid-v0", entry_point=Paid, max_episode_steps=10)
gymnasium.register("Ending-v0", entry_point=Ending)


@pytest.mark.parametrize(("data", "low", "high"), [("Paid-v0", 4.7, 5.3), ("Ending-v0", 2.0, 4.4)])
def test_a_time_limit_is_no_end(data, low, high):
    """One state, paid 1 for ever, is worth 1/(1-γ) = 5, however short a clock cuts its episodes; where
    episodes truly end after 10 steps, it is worth the mean of (1-γ^k)/(1-γ) over k = 1..10, 3.2."""
    recipe = dataclasses.replace(SMOKE, data=data, gamma=0.8, lam=0.9, lr=1e-2, length=20)
    run = next(ppo.build(recipe))
    for _ in range(60):
        run.update(next(run.stream))
    value = run.state["model"].value(torch.zeros(1, 1)).item()
    print(f"{data}: the value learnt is {value:.3f}")
    assert low < value < high


def test_the_clipped_value_loss_takes_the_worse_of_both():
    """max((V - R)², (V_old + clip(V - V_old, ±ε) - R)²), row by row."""
    recipe = dataclasses.replace(SMOKE, clip_value=True)
    run = next(ppo.build(recipe))
    model = run.state["model"]
    rows = ppo.rows_of(model, next(run.stream), recipe)
    torch.manual_seed(0)
    rows[-3] = rows[-3] + torch.randn(len(rows[-3]))
    found = ppo.loss(model, rows, recipe, 0.2)["value_loss"].item()
    total, clipped = 0.0, 0
    for value, old, target in zip(
        *(x.tolist() for x in (model.value(rows[0]), rows[-3], rows[-1])), strict=False
    ):
        near = min(max(value, old - 0.2), old + 0.2)
        total += max((value - target) ** 2, (near - target) ** 2)
        clipped += (near - target) ** 2 > (value - target) ** 2
    print("found", found, "wanted", total / len(rows[0]), "clipped rows", clipped)
    assert clipped > 20
    assert abs(found - total / len(rows[0])) < 1e-4 * found


def test_minibatches_are_each_epoch_all_rows_once():
    recipe = dataclasses.replace(SMOKE, batch_size=30, epochs=3)
    rows = [torch.arange(100.0)[:, None], *(torch.arange(100.0) for _ in range(5))]
    batches = list(ppo.minibatches(rows, recipe, 0))
    assert [len(b[0]) for b in batches] == [30, 30, 30, 10] * 3
    epochs = [torch.cat([b[1] for b in batches[k : k + 4]]) for k in (0, 4, 8)]
    assert all(torch.equal(e.sort().values, rows[1]) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    again = list(ppo.minibatches(rows, recipe, 0))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(batches, again, strict=True))
    other = list(ppo.minibatches(rows, recipe, 1))
    assert not torch.equal(batches[0][1], other[0][1])
    for batch in batches:
        assert abs(float(batch[4].mean())) < 1e-5
        assert abs(float(batch[4].std()) - 1) < 1e-4


def test_minibatches_of_frames_are_their_rows_and_keep_the_layout():
    recipe = dataclasses.replace(SMOKE, batch_size=8, epochs=1)
    frames = torch.randint(256, (20, 4, 6, 5), dtype=torch.uint8)
    number = torch.arange(20.0)
    for layout in (torch.channels_last, torch.contiguous_format):
        rows = [frames.contiguous(memory_format=layout), None, *[number] * 5]
        for batch in ppo.minibatches(rows, recipe, 0):
            assert torch.equal(batch[0], frames[batch[2].long()])
            assert batch[0].is_contiguous(memory_format=torch.channels_last)


def test_frames_that_the_network_cannot_see_are_refused():
    with pytest.raises(BadInput, match="AtariPreprocessing"):
        next(ppo.build(dataclasses.replace(SMOKE, data="ALE/Pong-v5")))
