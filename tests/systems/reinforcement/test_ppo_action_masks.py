"""Action masks: invalid actions are neither taken nor learned from, in rollouts, updates and evaluation."""

import dataclasses
import io

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput
from torchstone.systems.reinforcement import ppo, reinforce
from torchstone.tasks.rl import on_policy

DOORS = 5


class Doors(gymnasium.Env):
    """Five doors, open where the observation is positive. Going through the first open one gives reward 1;
    going through a shut one raises. Episodes have 4 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (DOORS,), np.float32)
    action_space = gymnasium.spaces.Discrete(DOORS)

    def _observe(self):
        self.observation = self.np_random.uniform(-1, 1, DOORS).astype(np.float32)
        self.observation[self.np_random.integers(DOORS)] = 0.5
        return self.observation, {"action_mask": (self.observation > 0).astype(np.int8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observe()

    def step(self, action):
        if self.observation[action] <= 0:
            raise ValueError(f"door {action} is shut")
        reward = float(action == int((self.observation > 0).argmax()))
        self.time += 1
        observation, info = self._observe()
        return observation, reward, self.time == 4, False, info


class DoorsWithMask(gymnasium.Wrapper):
    """The same, with the mask inside a dict observation."""

    def __init__(self, fault: bool = False):
        super().__init__(Doors())
        self.fault = fault
        mask = gymnasium.spaces.Box(0, 1, (DOORS,), np.int8)
        spaces = {"doors": Doors.observation_space, "action_mask": mask}
        self.observation_space = gymnasium.spaces.Dict(spaces)

    def _with_mask(self, observation, info):
        return {"doors": observation, "action_mask": info["action_mask"] * (not self.fault)}

    def reset(self, **options):
        return self._with_mask(*self.env.reset(**options)), {}

    def step(self, action):
        observation, *rest, info = self.env.step(action)
        return (self._with_mask(observation, info), *rest, {})


gymnasium.register("Doors-v0", entry_point=Doors)
gymnasium.register("DoorsWithMask-v0", entry_point=DoorsWithMask)
gymnasium.register("DoorsShut-v0", entry_point=DoorsWithMask, kwargs={"fault": True})

CHANGES = {"device": "cpu", "data": "Doors-v0", "num_envs": 4, "num_steps": 32, "hidden": (16,)}
RECIPE = dataclasses.replace(ppo.RECIPES["smoke"], **CHANGES, batch_size=64)


@pytest.mark.parametrize("data", ["Doors-v0", "DoorsWithMask-v0"])
def test_ppo_never_takes_masked_actions(data):
    run = next(ppo.build(dataclasses.replace(RECIPE, data=data)))
    for number in range(3):
        rollout = next(run.stream)
        assert torch.equal(rollout.action_mask, rollout.observation > 0), f"rollout {number}"
        assert rollout.action_mask.gather(-1, rollout.action[..., None]).all()
        assert rollout.observation.shape == (32, 4, DOORS)
        run.update(rollout)
    open_doors = rollout.action_mask.sum(-1)
    print(f"{data}: open doors {open_doors.min()} to {open_doors.max()}")
    assert open_doors.min() < 2 < 3 < open_doors.max()


def test_ppo_update_uses_masks():
    """log π and entropy are those of the softmax over open doors alone, row by row; there is no
    gradient for a shut one."""
    recipe = dataclasses.replace(RECIPE, ent_coef=1.0)
    run = next(ppo.build(recipe))
    model = run.state["model"]
    rollout = next(run.stream)
    batch = on_policy.make_batch(model, rollout, recipe.gamma, recipe.gae_lambda)
    expected, entropies = [], []
    logits = model.actor(rollout.observation.flatten(0, 1)).tolist()
    for row, observation, action in zip(
        logits, rollout.observation.flatten(0, 1), rollout.action.flatten(), strict=True
    ):
        odds = {k: np.exp(row[k]) for k in range(DOORS) if observation[k] > 0}
        total = sum(odds.values())
        expected.append(np.log(odds[int(action)] / total))
        entropies.append(-sum(p / total * np.log(p / total) for p in odds.values()))
    difference = float((batch.log_prob - torch.tensor(expected)).abs().max())
    print("log π, furthest from the definition:", difference)
    assert difference < 1e-5
    statistics = ppo.update_statistics(model, batch, 0.2)
    assert abs(float(statistics["entropy"]) - np.mean(entropies)) < 1e-5
    assert float(statistics["approx_kl"]) < 1e-6
    for door in range(DOORS):
        shut = batch.select((batch.inputs.observation[:, door] <= 0).nonzero()[:, 0])
        model.zero_grad()
        ppo.loss(model, shut, recipe, torch.tensor(0.2))["loss"].backward()
        gradient = model.actor[-1].weight.grad
        assert torch.isfinite(gradient).all()
        assert not gradient[door].any()
        assert gradient.any()


def test_ppo_learns_and_evaluates_with_masks():
    run = next(ppo.build(dataclasses.replace(RECIPE, lr=3e-3, total_timesteps=25 * 128)))
    before = run.test()["return"]  # greedy, and through no shut door
    for _ in range(run.steps):
        run.update(next(run.stream))
    after = run.test()["return"]
    print(f"return of 4 steps: {before} untrained, {after} after {run.steps} updates")
    assert after > max(3.4, before + 0.5)


def test_ppo_masks_resume_bit_exact():
    one, other = (next(ppo.build(dataclasses.replace(RECIPE, seed=0))) for _ in range(2))
    next(one.stream)
    file = io.BytesIO()
    torch.save(one.stream.state_dict(), file)
    file.seek(0)
    for _ in range(2):
        next(other.stream)
    other.stream.load_state_dict(torch.load(file, weights_only=True))
    a, b = next(one.stream), next(other.stream)
    assert torch.equal(a.action_mask, b.action_mask)
    assert torch.equal(a.action, b.action)


def test_reinforce_uses_masks():
    changes = {**CHANGES, "anneal_lr": False}
    del changes["num_steps"]
    recipe = dataclasses.replace(reinforce.RECIPES["smoke"], **changes)
    run = next(reinforce.build(recipe))
    rollout, is_live = next(run.stream)
    assert torch.equal(rollout.action_mask, rollout.observation > 0)
    metrics = run.update((rollout, is_live))
    open_doors = rollout.action_mask[is_live].sum(-1).float()
    expected = float(open_doors.log().mean())  # an untrained policy is nearly uniform
    print("entropy", float(metrics["entropy"]), "of a uniform policy", expected)
    assert abs(float(metrics["entropy"]) - expected) < 1e-3


def test_action_mask_without_valid_action_is_refused():
    with pytest.raises(BadInput, match="env 0 gave at step 0 an action mask with no action allowed"):
        VectorEnv("DoorsShut-v0", 2)
