"""Masks: what a world says is invalid is neither done nor learnt from, in rollouts, updates and judgement."""

import dataclasses
import io

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.envs.vector_env import Worlds
from torchstone.errors import BadInput
from torchstone.systems.reinforcement import ppo, reinforce

DOORS = 5


class Doors(gymnasium.Env):
    """Of five doors those are open whose numbers, as they are seen, are positive. To go through the first
    open one is paid 1; to go through one that is shut raises. Episodes have 4 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (DOORS,), np.float32)
    action_space = gymnasium.spaces.Discrete(DOORS)

    def _draw(self):
        self.seen = self.np_random.uniform(-1, 1, DOORS).astype(np.float32)
        self.seen[self.np_random.integers(DOORS)] = 0.5
        return self.seen, {"action_mask": (self.seen > 0).astype(np.int8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._draw()

    def step(self, action):
        if self.seen[action] <= 0:
            raise ValueError(f"door {action} is shut")
        reward = float(action == int((self.seen > 0).argmax()))
        self.time += 1
        seen, about = self._draw()
        return seen, reward, self.time == 4, False, about


class Shown(gymnasium.Wrapper):
    """The same, with the mask beside what is seen."""

    def __init__(self, fault: bool = False):
        super().__init__(Doors())
        self.fault = fault
        mask = gymnasium.spaces.Box(0, 1, (DOORS,), np.int8)
        both = {"doors": Doors.observation_space, "action_mask": mask}
        self.observation_space = gymnasium.spaces.Dict(both)

    def _shown(self, seen, about):
        return {"doors": seen, "action_mask": about["action_mask"] * (not self.fault)}

    def reset(self, **options):
        return self._shown(*self.env.reset(**options)), {}

    def step(self, action):
        seen, *rest, about = self.env.step(action)
        return (self._shown(seen, about), *rest, {})


gymnasium.register("Doors-v0", entry_point=Doors)
gymnasium.register("DoorsShown-v0", entry_point=Shown)
gymnasium.register("DoorsShut-v0", entry_point=Shown, kwargs={"fault": True})

CHANGES = {"device": "cpu", "data": "Doors-v0", "worlds": 4, "length": 32, "hidden": (16,)}
RECIPE = dataclasses.replace(ppo.RECIPES["smoke"], **CHANGES, batch_size=64)


@pytest.mark.parametrize("data", ["Doors-v0", "DoorsShown-v0"])
def test_what_is_invalid_is_never_done_and_the_masks_are_kept(data):
    run = next(ppo.build(dataclasses.replace(RECIPE, data=data)))
    for number in range(3):
        rollout = next(run.stream)
        assert torch.equal(rollout.mask, rollout.observation > 0), f"rollout {number}"
        assert rollout.mask.gather(-1, rollout.action[..., None]).all()
        assert rollout.observation.shape == (32, 4, DOORS)
        run.update(rollout)
    few = rollout.mask.sum(-1)
    print(f"{data}: open doors {few.min()} to {few.max()}")
    assert few.min() < 2 < 3 < few.max()


def test_an_update_knows_the_masks():
    """log π and entropy are those of the softmax over open doors alone, row by row; no gradient is of a
    shut one."""
    recipe = dataclasses.replace(RECIPE, entropy=1.0)
    run = next(ppo.build(recipe))
    model = run.state["model"]
    rollout = next(run.stream)
    rows = ppo.rows_of(model, rollout, recipe)
    wanted, entropies = [], []
    logits = model.actor(rollout.observation.flatten(0, 1)).tolist()
    for said, seen, action in zip(
        logits, rollout.observation.flatten(0, 1), rollout.action.flatten(), strict=True
    ):
        chance = {k: np.exp(said[k]) for k in range(DOORS) if seen[k] > 0}
        total = sum(chance.values())
        wanted.append(np.log(chance[int(action)] / total))
        entropies.append(-sum(p / total * np.log(p / total) for p in chance.values()))
    far = float((rows[-4] - torch.tensor(wanted)).abs().max())
    print("log π, furthest from the definition:", far)
    assert far < 1e-5
    said = ppo.moved(model, rows, 0.2)
    assert abs(float(said["entropy"]) - np.mean(entropies)) < 1e-5
    assert float(said["kl"]) < 1e-6
    for door in range(DOORS):
        shut = [None if row is None else row[rows[0][:, door] <= 0] for row in rows]
        model.zero_grad()
        ppo.loss(model, shut, recipe, 0.2)["loss"].backward()
        gradient = model.actor[-1].weight.grad
        assert torch.isfinite(gradient).all()
        assert not gradient[door].any()
        assert gradient.any()


def test_it_learns_and_is_judged_by_what_is_valid():
    run = next(ppo.build(dataclasses.replace(RECIPE, lr=3e-3, steps=25)))
    before = run.test()["return"]  # greedy, and through no shut door
    for _ in range(run.steps):
        run.update(next(run.stream))
    after = run.test()["return"]
    print(f"return of 4 steps: {before} untrained, {after} after {run.steps} updates")
    assert after > max(3.4, before + 0.5)


def test_masks_go_on_bit_for_bit():
    one, other = (next(ppo.build(dataclasses.replace(RECIPE, seed=0))) for _ in range(2))
    next(one.stream)
    file = io.BytesIO()
    torch.save(one.stream.state_dict(), file)
    file.seek(0)
    for _ in range(2):
        next(other.stream)
    other.stream.load_state_dict(torch.load(file, weights_only=True))
    a, b = next(one.stream), next(other.stream)
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.action, b.action)


def test_reinforce_knows_them_too():
    changes = {**CHANGES, "anneal": False}
    del changes["length"]
    recipe = dataclasses.replace(reinforce.RECIPES["smoke"], **changes)
    run = next(reinforce.build(recipe))
    rollout, live = next(run.stream)
    assert torch.equal(rollout.mask, rollout.observation > 0)
    metrics = run.update((rollout, live))
    few = rollout.mask[live].sum(-1).float()
    wanted = float(few.log().mean())  # an untrained policy is even, nearly
    print("entropy", float(metrics["entropy"]), "of even chances", wanted)
    assert abs(float(metrics["entropy"]) - wanted) < 1e-3


def test_a_mask_that_leaves_nothing_is_said():
    with pytest.raises(BadInput, match="world 0 gave at step 0 an action mask with no action allow"):
        Worlds("DoorsShut-v0", 2)
