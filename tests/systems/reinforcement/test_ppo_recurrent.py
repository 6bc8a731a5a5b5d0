"""Recurrent PPO: sequences read side by side are the step-by-step ones, forgotten where episodes end."""

import copy
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.engine.run import fit
from torchstone.systems.reinforcement import a2c, ppo

CHANGES = {"length": 40, "worlds": 5, "batch": 80, "epochs": 3, "limit": 16, "hidden": (8, 12)}
MEMORY = dataclasses.replace(
    ppo.RECIPES["cartpole_memory"], device="cpu", film=False, anneal=False, scaled=False, lr=3e-3
)
RECIPE = dataclasses.replace(MEMORY, **CHANGES)


def moment(model, observation, h, c):
    """One step of the network for one world, written out: what it says, its value, what it remembers."""
    m = model.memory
    sums = model.body(observation[None])[0] @ m.weight_ih_l0.T + m.bias_ih_l0
    i, f, g, o = (sums + m.weight_hh_l0 @ h + m.bias_hh_l0).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return model.actor(h), model.critic(h)[0], h, c


def slow(model, rollout):
    """log π, entropies, values, those of successors, and memories at the end: loops over worlds and time."""
    length, worlds = rollout.reward.shape
    ended = rollout.terminated | rollout.truncated
    cuts = iter(range(len(rollout.cuts)))
    of_cut = {
        (t, n): next(cuts)
        for t in range(length)
        for n in range(worlds)
        if rollout.truncated[t, n] and not rollout.terminated[t, n]
    }
    found = [torch.zeros(length, worlds) for _ in range(4)]
    memories = []
    for n in range(worlds):
        h, c = (each[0, n] for each in rollout.memory)
        for t in range(length):
            logits, value, h, c = moment(model, rollout.observation[t, n], h, c)
            chance = torch.distributions.Categorical(logits=logits)
            log_prob, entropy = chance.log_prob(rollout.action[t, n]), chance.entropy()
            after = torch.zeros(())
            if (t, n) in of_cut:
                after = moment(model, rollout.cuts[of_cut[t, n]], h, c)[1]
            elif not ended[t, n]:
                ahead = rollout.last[n] if t + 1 == length else rollout.observation[t + 1, n]
                after = moment(model, ahead, h, c)[1]
            for row, number in zip(found, (log_prob, entropy, value, after), strict=True):
                row[t, n] = number
            if ended[t, n]:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
        memories.append((h, c))
    return *found, [torch.stack(each) for each in zip(*memories, strict=True)]


def advanced(run):
    """Some way into training, so that worlds remember something: a rollout."""
    for _ in range(2):
        run.update(next(run.stream))
    rollout = next(run.stream)
    ended = rollout.terminated | rollout.truncated
    assert len(rollout.cuts) > 2
    assert rollout.terminated.sum() > 1
    assert all(each.abs().max() > 1e-3 for each in rollout.memory)
    assert not ended[-1].all()
    return rollout


def test_a_rollout_is_read_as_step_by_step():
    run = next(ppo.build(RECIPE))
    model = run.state["model"]
    rollout = advanced(run)
    seen = ppo.on_policy.asked(rollout)
    with torch.no_grad():
        policy, value = model.both(*seen)
        log_prob, entropy, values, after, memory = slow(model, rollout)
    value = value.T
    following = ppo.on_policy.following(model, rollout, seen, value)
    pairs = {
        "log π": (policy.log_prob(rollout.action.T).T, log_prob),
        "entropy": (policy.entropy().T, entropy),
        "V": (value, values),
        "V of what follows": (following, after),
        "h": (run.stream.player.memory[0][0], memory[0]),
        "c": (run.stream.player.memory[1][0], memory[1]),
    }
    for name, (a, b) in pairs.items():
        far = float((a - b).abs().max())
        print(f"{name}: {a.numel()} numbers up to {float(b.abs().max()):.3g}, {far:.2g} apart")
        assert far < 1e-5, name
        assert b.abs().max() > 1e-3, name


def test_an_update_is_that_of_the_loop():
    """Three epochs of whole worlds in minibatches of two, each gradient through the written-out loop."""
    run = next(ppo.build(RECIPE))
    model = run.state["model"]
    rollout = advanced(run)
    other = copy.deepcopy(model)
    adam = torch.optim.Adam(other.parameters(), lr=RECIPE.lr, eps=1e-5)
    moments = run.state["optimiser"].state_dict()["state"][0]
    sizes = [p.numel() for p in other.parameters()]
    for p, m, v in zip(
        other.parameters(),
        *(moments[k].split(sizes) for k in ("exp_avg", "exp_avg_sq")),
        strict=True,
    ):
        average = {"exp_avg": m.view_as(p).clone(), "exp_avg_sq": v.view_as(p).clone()}
        adam.state[p] = {"step": moments["step"].clone(), **average}
    with torch.no_grad():
        old, _, value, after, _ = slow(other, rollout)
    ended = rollout.terminated | rollout.truncated
    advantage, ahead = torch.zeros_like(value), torch.zeros(5)
    for t in reversed(range(40)):
        delta = rollout.reward[t] + RECIPE.gamma * after[t] - value[t]
        ahead = delta + RECIPE.gamma * RECIPE.lam * torch.where(ended[t], 0.0, ahead)
        advantage[t] = ahead
    target = advantage + value
    shuffle = torch.Generator().manual_seed(mix(RECIPE.seed, ppo.SHUFFLE, rollout.number))
    for _ in range(RECIPE.epochs):
        for chosen in torch.randperm(5, generator=shuffle).split(2):
            log_prob, _, guess, _, _ = (
                x[:, chosen] if isinstance(x, torch.Tensor) else x for x in slow(other, rollout)
            )
            gain = advantage[:, chosen]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            ratio = (log_prob - old[:, chosen]).exp()
            clipped = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
            loss = RECIPE.value * (guess - target[:, chosen]).square().mean() - clipped
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(other.parameters(), RECIPE.norm)
            adam.step()
    before = [p.detach().clone() for p in model.parameters()]
    run.update(rollout)
    pairs = zip(model.parameters(), other.parameters(), before, strict=True)
    apart = [((a - b).abs().max(), (a - c).abs().max()) for a, b, c in pairs]
    far, went = (float(max(each)) for each in zip(*apart, strict=True))
    print(f"the update moved weights by {went:.2g}, the two are {far:.2g} apart")
    assert went > 3e-3
    assert far < 1e-5


class Recall(gymnasium.Env):
    """A bit is shown, then three times nothing; then it is to be told, for 1."""

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
def test_what_is_gone_is_known_by_memory_alone(variant):
    options = {"data": "Recall-v0", "wrappers": (), "worlds": 16, "length": 20, "episodes": 40}
    recipe = dataclasses.replace(
        MEMORY, variant=variant, hidden=(16,), lr=1e-2, batch_size=160, epochs=4, **options
    )
    run = next(ppo.build(recipe))
    for _ in range(30):
        run.update(next(run.stream))
    share = run.test()["return"]
    print(f"{variant}: {share:.2f} of the bits told")
    assert share > 0.95 if variant == "ppo_recurrent" else 0.2 < share < 0.8


@pytest.mark.parametrize("system", ["ppo", "a2c"])
def test_what_is_remembered_goes_on_bit_for_bit(system, tmp_path):
    if system == "ppo":
        module, recipe = ppo, dataclasses.replace(RECIPE, steps=9, episodes=2)
    else:
        smoke = dataclasses.replace(a2c.RECIPES["smoke"], device="cpu", actors="stale", worlds=2)
        module = a2c
        recipe = dataclasses.replace(smoke, variant="a2c_lstm", steps=9, episodes=2)
    whole = next(module.build(recipe))
    fit(whole, tmp_path / "whole", quiet=True)
    cut = next(module.build(recipe))
    cut.steps = 5
    fit(cut, tmp_path / "cut", quiet=True)
    resumed = next(module.build(recipe))
    fit(resumed, tmp_path / "cut", quiet=True)
    a, b = (torch.cat([p.flatten() for p in r.state["model"].parameters()]) for r in (whole, resumed))
    print("parameters", len(a), "different", int((a != b).sum()))
    assert torch.equal(a, b)
    assert whole.results == resumed.results
