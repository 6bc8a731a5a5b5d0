"""Reacher as a goal environment: the same world in other words, and what counts as success."""

import gymnasium
import numpy as np
import pytest

from torchstone.envs.goals import goal_slices
from torchstone.envs.make import make_env
from torchstone.envs.vector_env import VectorEnv, gives_success, is_snapshot_exact
from torchstone.errors import BadInput

SPARSE, DENSE = ("GoalReacher",), ("GoalReacher:reward=dense",)


@pytest.mark.parametrize("wrappers", [SPARSE, DENSE])
def test_goal_reacher_is_reacher_in_other_words(wrappers):
    env, limit = make_env("Reacher-v5", wrappers, None)
    plain = gymnasium.make("Reacher-v5")
    goals = goal_slices(env)
    assert limit == 50
    action_space, rewards = plain.action_space, []
    action_space.seed(0)
    for seed in (1, 2):
        (observation, _), (expected, _) = env.reset(seed=seed), plain.reset(seed=seed)
        for _ in range(50):
            target, tip = expected[4:6], expected[8:10] + expected[4:6]
            assert np.allclose(observation[goals.achieved], tip, atol=1e-7)
            assert np.allclose(observation[goals.desired], target, atol=1e-7)
            assert np.allclose(observation[4:], np.r_[expected[:4], expected[6:8]], atol=1e-5)
            # the arm's angles say where the fingertip is: what is observed beside the goal is not of the goal
            action = action_space.sample() * 0.1
            observation, reward, terminated, _, info = env.step(action)
            expected, own_reward, *_, own_info = plain.step(action)
            is_near = -own_info["reward_dist"] <= 0.02
            assert info["is_success"] == is_near
            assert reward == pytest.approx(own_reward if wrappers == DENSE else is_near - 1.0)
            assert not terminated
            rewards.append(reward)
    print(wrappers, "mean reward", np.mean(rewards))


def test_sparse_reward_is_for_any_goals_and_the_dense_one_for_none():
    sparse, dense = (make_env("Reacher-v5", w, None)[0] for w in (SPARSE, DENSE))
    compute_reward = sparse.get_wrapper_attr("compute_reward")
    achieved, desired = np.zeros((3, 2)), np.array([[0.02, 0.0], [0.0, 0.0201], [-0.01, 0.01]])
    assert compute_reward(achieved, desired, {}).tolist() == [0.0, -1.0, 0.0]
    with pytest.raises(AttributeError):
        dense.get_wrapper_attr("compute_reward")


@pytest.mark.parametrize("offset", [0.015, 0.025])
def test_success_is_within_two_centimetres(offset):
    env, _ = make_env("Reacher-v5", SPARSE, None)
    env.reset(seed=0)
    goals, inner = goal_slices(env), env.unwrapped
    tip = inner.get_body_com("fingertip")[:2].copy()
    position = inner.data.qpos.copy()
    position[2:] = tip * (1 - offset / np.linalg.norm(tip))
    inner.set_state(position, np.zeros(4))
    observation, reward, *_, info = env.step(np.zeros(2, np.float32))
    distance = np.linalg.norm(observation[goals.achieved] - observation[goals.desired])
    print("distance", distance, info)
    assert distance == pytest.approx(offset, abs=1e-3)
    assert info["is_success"] == (offset < 0.02)
    assert reward == (0.0 if offset < 0.02 else -1.0)


@pytest.mark.parametrize("wrappers", [SPARSE, DENSE])
def test_goal_reacher_has_a_state_for_checkpoints(wrappers):
    assert is_snapshot_exact("Reacher-v5", wrappers, 12)
    assert gives_success("Reacher-v5", wrappers)


def test_success_is_of_an_episode_s_last_step():
    """Of the point's episodes, some end at their goals, some were there only on the way."""
    envs = VectorEnv("toy_goals:PointGoal", 40, seed=3, max_episode_steps=5)
    goals, rng = envs.goals, np.random.default_rng(0)
    ever, successes, expected = np.zeros(40, bool), [], []
    for _ in range(5):
        # towards the goal, and further
        away = (envs.observation[:, goals.desired] - envs.observation[:, goals.achieved]).numpy()
        action = away / 0.3 + rng.normal(0, 0.5, away.shape)
        step = envs.step(envs.observation.new_tensor(action))
        offset = step.next_observation[:, goals.achieved] - step.next_observation[:, goals.desired]
        is_near, done = (offset.norm(dim=1) <= 0.3).numpy(), (step.terminated | step.truncated).numpy()
        ever |= is_near
        successes += step.successes
        expected += is_near[done].tolist()
    print("at the end", sum(expected), "of", len(expected), "episodes; ever", ever.sum(), "of 40")
    assert successes == expected
    assert 0 < sum(expected) < ever.sum()


def test_environments_without_goals_have_no_successes():
    envs = VectorEnv("Pendulum-v1", 1, max_episode_steps=2)
    steps = [envs.step(envs.observation.new_zeros(1, 1)) for _ in range(2)]
    assert envs.goals is None
    assert [list(step.successes) for step in steps] == [[], []]
    assert steps[1].truncated.all()
    assert not gives_success("Pendulum-v1")


@pytest.mark.parametrize(
    ("spec", "wrapper", "word"),
    [
        ("Pendulum-v1", "GoalReacher", "wraps Reacher-v5"),
        ("Reacher-v5", "GoalReacher:reward=shaped", "sparse or dense"),
        ("Reacher-v5", "GoalReacher:threshold=2", "metres"),
    ],
)
def test_goal_reacher_refuses(spec, wrapper, word):
    with pytest.raises(BadInput, match=word) as caught:
        make_env(spec, (wrapper,), None)
    assert "\n" not in str(caught.value)
