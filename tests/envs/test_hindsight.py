"""Hindsight replay against plain loops over the episodes, and against stable-baselines3's buffer."""

import importlib

import numpy as np
import pytest
import torch

from torchstone.envs.goals import GoalSlices
from torchstone.envs.hindsight import HindsightReplay, make_hindsight
from torchstone.envs.replay_buffer import ReplayBuffer
from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput

GOALS = GoalSlices(slice(0, 2), slice(2, 4))  # of achieved_goal, desired_goal, observation
GAMMA = 0.9


def collect(num_envs: int, limit: int | None, steps: int, capacity: int, seed: int = 0):
    """Random steps in the point's environment: the buffer, and every step of each env in a plain list."""
    envs = VectorEnv("toy_goals:PointGoal", num_envs, seed=seed, max_episode_steps=limit)
    buffer = ReplayBuffer(capacity, num_envs, (6,), torch.float32, torch.zeros(2), keep_terminal=True)
    generator = torch.Generator().manual_seed(seed)
    rows = [[] for _ in range(num_envs)]
    for _ in range(steps):
        observation = envs.observation.clone()
        action = torch.rand(num_envs, 2, generator=generator) * 2 - 1
        step = envs.step(action)
        done = step.terminated | step.truncated
        columns = (observation, action, step.reward, step.terminated, step.truncated)
        buffer.add(
            *(column[None].clone() for column in columns),
            envs.observation.clone(),
            step.next_observation[done].clone(),
        )
        for env in range(num_envs):
            rows[env].append(
                (*(column[env].clone() for column in columns), step.next_observation[env].clone())
            )
    return envs, buffer, rows


def episode_end(rows: list, step: int) -> int:
    """The step that ends the episode of `step`, or the newest one."""
    return next((t for t in range(step, len(rows)) if rows[t][3] or rows[t][4]), len(rows) - 1)


@pytest.mark.parametrize(
    ("num_envs", "limit", "steps", "capacity"),
    [(1, None, 38, 100), (3, 5, 61, 90), (2, 0, 50, 24)],  # the second and third go round the ring
)
def test_hindsight_equals_plain_loops_over_episodes(num_envs, limit, steps, capacity):
    envs, buffer, rows = collect(num_envs, limit, steps, capacity)
    replay = make_hindsight(envs, buffer, k=4)
    index = ((buffer.oldest + torch.arange(len(buffer))) % buffer.num_rows).repeat(10)
    plain = buffer.sample_at(index, GAMMA)
    relabelled = replay(index, plain, torch.Generator().manual_seed(1))
    chance, which = torch.rand(
        2, len(index), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).tolist()
    held = len(buffer) // num_envs
    kinds = {"kept": 0, "own": 0, "later": 0, "running": 0, "terminated": 0, "truncated": 0}
    for n in range(len(index)):
        step, env = divmod(n % len(buffer), num_envs)
        step += steps - held
        row = rows[env][step]
        got = [column[n] for column in relabelled]
        observation, next_observation, reward = row[0].clone(), row[5].clone(), float(row[2])
        if chance[n] < 4 / 5:
            end = episode_end(rows[env], step)
            later = step + int(which[n] * (end - step + 1))
            goal = rows[env][later][5][:2]
            observation[2:4] = next_observation[2:4] = goal
            reward = 0.0 if float(torch.linalg.norm(row[5][:2] - goal)) <= 0.3 else -1.0
            kinds["own" if later == step else "later"] += 1
            kinds["running"] += not (rows[env][end][3] or rows[env][end][4])
        else:
            kinds["kept"] += 1
        assert torch.equal(got[0], observation), n
        assert torch.equal(got[1], row[1])
        assert float(got[2]) == reward, n
        assert torch.equal(got[3], next_observation), n
        assert float(got[4]) == (0.0 if row[3] else np.float32(GAMMA))
        kinds["terminated"] += bool(row[3])
        kinds["truncated"] += bool(row[4])
    print(num_envs, "envs, limit", limit, kinds)
    assert min(kinds["kept"], kinds["own"], kinds["later"], kinds["running"]) > 10
    assert kinds["truncated" if limit else "terminated"] > 30
    share = kinds["kept"] / len(index)
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / len(index)) ** 0.5
    # what was sampled is unchanged: the buffer may give it again
    assert torch.equal(plain.observation[:, 2:4], buffer.sample_at(index, GAMMA).observation[:, 2:4])


def test_hindsight_draws_every_later_state_equally_often():
    _, buffer, rows = collect(1, None, 40, 50)
    first = next(t for t in range(40) if episode_end(rows[0], t) - t == 6)  # of an episode of seven steps
    replay = HindsightReplay(buffer, GOALS, lambda a, d, info: np.zeros(len(a)), k=10**9)
    index = torch.full((6000,), first + 2)
    goals = replay(index, buffer.sample_at(index, GAMMA), torch.Generator().manual_seed(0)).observation[
        :, 2:4
    ]
    attained = torch.stack([row[5][:2] for row in rows[0][first : first + 7]])
    which = (goals[:, None] == attained).all(2).float().argmax(1)
    counts = which.bincount(minlength=7)
    print("states of the episode as goals of its third step:", counts.tolist())
    assert counts[:2].sum() == 0
    assert (counts[2:] - 1200).abs().max() < 4 * (6000 * 0.2 * 0.8) ** 0.5


@pytest.mark.sweep
@pytest.mark.parametrize("num_envs", [1, 3])
def test_hindsight_equals_stable_baselines3(num_envs, monkeypatch):
    """Its buffer has the same steps, and draws the same later states."""
    her = importlib.import_module("stable_baselines3.her.her_replay_buffer")
    envs, buffer, rows = collect(num_envs, 5, 60, 1000)
    env = envs.backend.envs[0].env

    class OneEnv:
        num_envs = 1

        def env_method(self, name, *args, indices):
            return [getattr(env.unwrapped, name)(*args)]

    theirs = her.HerReplayBuffer(
        1000 * num_envs,
        env.observation_space,
        env.action_space,
        OneEnv(),
        n_envs=num_envs,
        n_sampled_goal=4,
        goal_selection_strategy="future",
        handle_timeout_termination=True,
    )

    def parts(vectors):
        x = torch.stack(vectors).numpy()
        return {"achieved_goal": x[:, :2], "desired_goal": x[:, 2:4], "observation": x[:, 4:]}

    for step in zip(*rows, strict=True):
        observation, action, reward, terminated, truncated, next_observation = zip(*step, strict=True)
        theirs.add(
            parts(observation),
            parts(next_observation),
            torch.stack(action).numpy(),
            np.array(reward),
            np.array([bool(a or b) for a, b in zip(terminated, truncated, strict=True)]),
            [{"TimeLimit.truncated": bool(b and not a)} for a, b in zip(terminated, truncated, strict=True)],
        )
    # it leaves out episodes that are under way
    ended = [
        step * num_envs + env
        for env in range(num_envs)
        for step in range(60)
        if any(rows[env][episode_end(rows[env], step)][3:5])
    ]
    index = torch.tensor(ended).repeat(20)
    replay = make_hindsight(envs, buffer, k=10**9)
    ours = replay(index, buffer.sample_at(index, GAMMA), torch.Generator().manual_seed(3))
    which = torch.rand(2, len(index), generator=torch.Generator().manual_seed(3), dtype=torch.float64)[1]

    def later(low, high):
        return (low + (which.numpy() * (high - low)).astype(int)).astype(int)

    monkeypatch.setattr(her.np.random, "randint", later)
    slots, which_env = (index // num_envs).numpy(), (index % num_envs).numpy()
    sample = theirs._get_virtual_samples(slots, which_env)
    names = ("achieved_goal", "desired_goal", "observation")
    assert torch.equal(ours.observation, torch.cat([sample.observations[n] for n in names], 1))
    assert torch.equal(ours.next_observation, torch.cat([sample.next_observations[n] for n in names], 1))
    assert torch.equal(ours.action, sample.actions)
    assert torch.equal(ours.reward, sample.rewards[:, 0])
    assert torch.equal(ours.discount, GAMMA * (1 - sample.dones[:, 0]))
    assert (ours.reward == 0).any()
    assert (ours.reward == -1).any()
    print(
        len(index),
        "relabelled transitions equal stable-baselines3's; share of 0:",
        (ours.reward == 0).float().mean(),
    )


@pytest.mark.parametrize(
    ("spec", "wrappers", "word"),
    [
        ("Pendulum-v1", (), "has no goals"),
        ("toy_goals:PointGoal", ("FlattenObservation", "PartialObservation:keep=0,1,2"), "has no goals"),
        ("toy_goals:NoReward", (), "no compute_reward"),
        ("toy_goals:OneReward", (), "where two rewards are needed"),
    ],
)
def test_hindsight_refuses_what_has_no_goals(spec, wrappers, word):
    envs = VectorEnv(spec, 1, wrappers=wrappers)
    buffer = ReplayBuffer(10, 1, (6,), torch.float32, torch.zeros(2), keep_terminal=True)
    with pytest.raises(BadInput, match=word) as caught:
        make_hindsight(envs, buffer, 4)
    print(caught.value)
    assert "\n" not in str(caught.value)
