"""Recurrent PPO: stacked segments equal step-by-step recurrence, reset where episodes end."""

import copy
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.engine.run import fit
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.systems.reinforcement import a2c, ppo

CHANGES = {
    "num_steps": 40,
    "num_envs": 5,
    "batch_size": 80,
    "epochs": 3,
    "max_episode_steps": 16,
    "hidden": (8, 12),
}
MEMORY = dataclasses.replace(
    ppo.RECIPES["cartpole_memory"],
    device="cpu",
    record_video=False,
    anneal_lr=False,
    normalize=False,
    lr=3e-3,
)
RECIPE = dataclasses.replace(MEMORY, **CHANGES)


def single_step(model, observation, h, c):
    """One step of the network for one env, written out: logits, value, recurrent state."""
    m = model.rnn
    sums = model.body(observation[None])[0] @ m.weight_ih_l0.T + m.bias_ih_l0
    i, f, g, o = (sums + m.weight_hh_l0 @ h + m.bias_hh_l0).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return model.actor(h), model.critic(h)[0], h, c


def step_by_step(model, rollout):
    """log π, entropies, values, next values, and recurrent states at the end: loops over envs and time."""
    length, envs = rollout.reward.shape
    done = rollout.terminated | rollout.truncated
    final_indices = iter(range(len(rollout.final_observations)))
    index_of_final = {
        (t, n): next(final_indices)
        for t in range(length)
        for n in range(envs)
        if rollout.truncated[t, n] and not rollout.terminated[t, n]
    }
    columns = [torch.zeros(length, envs) for _ in range(4)]
    states = []
    for n in range(envs):
        h, c = (each[0, n] for each in rollout.recurrent_state)
        for t in range(length):
            logits, value, h, c = single_step(model, rollout.observation[t, n], h, c)
            policy = torch.distributions.Categorical(logits=logits)
            log_prob, entropy = policy.log_prob(rollout.action[t, n]), policy.entropy()
            next_value = torch.zeros(())
            if (t, n) in index_of_final:
                next_value = single_step(model, rollout.final_observations[index_of_final[t, n]], h, c)[1]
            elif not done[t, n]:
                following = rollout.last_observation[n] if t + 1 == length else rollout.observation[t + 1, n]
                next_value = single_step(model, following, h, c)[1]
            for row, number in zip(columns, (log_prob, entropy, value, next_value), strict=True):
                row[t, n] = number
            if done[t, n]:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
        states.append((h, c))
    return *columns, [torch.stack(each) for each in zip(*states, strict=True)]


def trained_rollout(run):
    """A rollout from some way into training, so that recurrent states are not 0."""
    for _ in range(2):
        run.update(next(run.stream))
    rollout = next(run.stream)
    done = rollout.terminated | rollout.truncated
    assert len(rollout.final_observations) > 2
    assert rollout.terminated.sum() > 1
    assert all(each.abs().max() > 1e-3 for each in rollout.recurrent_state)
    assert not done[-1].all()
    return rollout


def test_recurrent_actor_critic_equals_step_by_step():
    run = next(ppo.build(RECIPE))
    model = run.state["model"]
    rollout = trained_rollout(run)
    inputs = ppo.on_policy.policy_inputs(rollout)
    with torch.no_grad():
        policy, value = model.policy_and_value(*inputs)
        log_prob, entropy, values, expected_next, state = step_by_step(model, rollout)
    value = value.T
    next_value = ppo.on_policy.next_values(model, rollout, inputs, value)
    pairs = {
        "log π": (policy.log_prob(rollout.action.T).T, log_prob),
        "entropy": (policy.entropy().T, entropy),
        "V": (value, values),
        "next V": (next_value, expected_next),
        "h": (run.stream.actor.state[0][0], state[0]),
        "c": (run.stream.actor.state[1][0], state[1]),
    }
    for name, (a, b) in pairs.items():
        difference = float((a - b).abs().max())
        print(f"{name}: {a.numel()} numbers up to {float(b.abs().max()):.3g}, {difference:.2g} apart")
        assert difference < 1e-5, name
        assert b.abs().max() > 1e-3, name


@pytest.mark.sweep
def test_recurrent_ppo_update_equals_loop():
    """Three epochs of all steps of envs in minibatches of two, each gradient through the written-out loop."""
    run = next(ppo.build(RECIPE))
    model = run.state["model"]
    rollout = trained_rollout(run)
    other = copy.deepcopy(model)
    adam = torch.optim.Adam(other.parameters(), lr=RECIPE.lr, eps=1e-5)
    moments = run.state["optimizer"].state_dict()["state"][0]
    sizes = [p.numel() for p in other.parameters()]
    for p, m, v in zip(
        other.parameters(), *(moments[k].split(sizes) for k in ("exp_avg", "exp_avg_sq")), strict=True
    ):
        average = {"exp_avg": m.view_as(p).clone(), "exp_avg_sq": v.view_as(p).clone()}
        adam.state[p] = {"step": moments["step"].clone(), **average}
    with torch.no_grad():
        old, _, value, next_value, _ = step_by_step(other, rollout)
    done = rollout.terminated | rollout.truncated
    advantage, later = torch.zeros_like(value), torch.zeros(5)
    for t in reversed(range(40)):
        delta = rollout.reward[t] + RECIPE.gamma * next_value[t] - value[t]
        later = delta + RECIPE.gamma * RECIPE.gae_lambda * torch.where(done[t], 0.0, later)
        advantage[t] = later
    target = advantage + value
    shuffle = torch.Generator().manual_seed(
        derive_seed(RECIPE.seed, SeedStream.PPO_MINIBATCHES, rollout.number)
    )
    for _ in range(RECIPE.epochs):
        for chosen in torch.randperm(5, generator=shuffle).split(2):
            log_prob, _, new_value, _, _ = (
                x[:, chosen] if isinstance(x, torch.Tensor) else x for x in step_by_step(other, rollout)
            )
            weight = advantage[:, chosen]
            weight = (weight - weight.mean()) / (weight.std() + 1e-8)
            ratio = (log_prob - old[:, chosen]).exp()
            clipped = torch.min(ratio * weight, ratio.clamp(0.8, 1.2) * weight).mean()
            loss = RECIPE.vf_coef * (new_value - target[:, chosen]).square().mean() - clipped
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(other.parameters(), RECIPE.max_grad_norm)
            adam.step()
    before = [p.detach().clone() for p in model.parameters()]
    run.update(rollout)
    pairs = zip(model.parameters(), other.parameters(), before, strict=True)
    differences = [((a - b).abs().max(), (a - c).abs().max()) for a, b, c in pairs]
    difference, change = (float(max(each)) for each in zip(*differences, strict=True))
    print(f"the update moved weights by {change:.2g}, the two are {difference:.2g} apart")
    assert change > 3e-3
    assert difference < 1e-5


class Recall(gymnasium.Env):
    """A bit is shown, then three times nothing; then repeating it gives reward 1."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.bit = 0, int(self.np_random.integers(2))
        return np.array([2 * self.bit - 1, 0], np.float32), {}

    def step(self, action):
        self.time += 1
        reward = float(action == self.bit) if self.time == 4 else 0.0
        return np.array([0, self.time == 3], np.float32), reward, self.time == 4, False, {}


gymnasium.register("Recall-v0", entry_point=Recall)


@pytest.mark.parametrize("variant", ["ppo_recurrent", "ppo"])
def test_recurrent_ppo_learns_what_needs_memory(variant):
    options = {"data": "Recall-v0", "wrappers": (), "num_envs": 16, "num_steps": 20, "eval_episodes": 40}
    recipe = dataclasses.replace(
        MEMORY, variant=variant, hidden=(16,), lr=1e-2, batch_size=160, epochs=4, **options
    )
    run = next(ppo.build(recipe))
    for _ in range(30):
        run.update(next(run.stream))
    share = run.test()["return"]
    print(f"{variant}: {share:.2f} of the bits recalled")
    assert share > 0.95 if variant == "ppo_recurrent" else 0.2 < share < 0.8


@pytest.mark.parametrize("system", ["ppo", "a2c"])
@pytest.mark.sweep
def test_recurrent_policy_resumes_bit_exact(system, tmp_path):
    if system == "ppo":
        module, recipe = ppo, dataclasses.replace(RECIPE, total_timesteps=9 * 200, eval_episodes=2)
    else:
        smoke = dataclasses.replace(a2c.RECIPES["smoke"], device="cpu", actors="async", num_envs=2)
        module = a2c
        recipe = dataclasses.replace(smoke, variant="a2c_lstm", total_timesteps=9 * 16, eval_episodes=2)
    full = next(module.build(recipe))
    fit(full, tmp_path / "full", quiet=True)
    interrupted = next(module.build(recipe))
    interrupted.steps = 5
    fit(interrupted, tmp_path / "interrupted", quiet=True)
    resumed = next(module.build(recipe))
    fit(resumed, tmp_path / "interrupted", quiet=True)
    a, b = (torch.cat([p.flatten() for p in r.state["model"].parameters()]) for r in (full, resumed))
    print("parameters", len(a), "different", int((a != b).sum()))
    assert torch.equal(a, b)
    assert full.results == resumed.results
