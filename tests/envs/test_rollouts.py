"""Rollouts: what was done where, the same from the same seed, and gone on with bit for bit."""

import io

import torch

from torchstone.envs.episodes import EpisodeRollouts
from torchstone.envs.rollouts import AsyncActorRollouts, Rollouts
from torchstone.envs.vector_env import VectorEnv
from torchstone.parts.rl.actor_critic import ActorCritic


def policy(seed: int = 0) -> ActorCritic:
    torch.manual_seed(seed)
    return ActorCritic((4,), 2, hidden=(8,))


def reload(stream) -> dict:
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flat(batch) -> list[torch.Tensor]:
    parts = [x for part in batch for x in (part if isinstance(part, tuple) else (part,))]
    return [torch.as_tensor(x) for x in parts if x is not None]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def test_rollouts_rows_are_consecutive_within_an_episode():
    stream = Rollouts(policy(), VectorEnv("CartPole-v1", 4, max_episode_steps=15), 40, seed=0)
    one, two = next(stream), next(stream)
    observations = torch.cat([one.observation, two.observation])
    ended = torch.cat([one.terminated | one.truncated, two.terminated | two.truncated])
    assert torch.equal(one.last_observation, two.observation[0])
    fresh = observations[1:].abs().amax(-1) <= 0.05
    assert fresh[ended[:-1]].all(), "an episode begins after one that ended"
    assert (~fresh[~ended[:-1]]).float().mean() > 0.9
    truncated = one.truncated & ~one.terminated
    assert len(one.final_observations) == truncated.sum() > 3
    assert (one.final_observations.abs().amax(-1) > 0.05).all(), "the last states, not those that came after"
    # what was truncated at is where the equations lead from the row before: the cart moves by its speed
    before = one.observation[truncated]
    torch.testing.assert_close(one.final_observations[:, 0], before[:, 0] + 0.02 * before[:, 1])
    assert len(one.returns) == (one.terminated | one.truncated).sum()
    assert (one.number, two.number, two.env_steps) == (0, 1, 320)


def test_rollouts_sample_from_current_policy():
    model = policy()
    stream = Rollouts(model, VectorEnv("CartPole-v1", 4), 50, seed=0)
    with torch.no_grad():
        model.actor[-1].bias.copy_(torch.tensor([0.0, 2.0]))
    share = float(next(stream).action.float().mean())
    with torch.no_grad():
        model.actor[-1].bias.copy_(torch.tensor([2.0, 0.0]))
    other = float(next(stream).action.float().mean())
    print("share of action 1", share, other, "expected", 0.881, 0.119)
    assert abs(share - 0.881) < 0.08
    assert abs(other - 0.119) < 0.08


def test_rollouts_resume_bit_exact():
    def make(seed: int) -> Rollouts:
        return Rollouts(policy(), VectorEnv("CartPole-v1", 4, seed=seed), 20, seed=1)

    one, other = make(0), make(8)
    next(one)
    state = reload(one)
    other.load_state_dict(state)
    assert all(same(next(one), next(other)) for _ in range(5))
    again, another = make(0), make(3)
    assert same(next(again), next(make(0)))
    assert not same(next(again), next(another))


def test_async_actor_rollouts_resume_bit_exact_with_own_policies():
    def make(seed: int) -> AsyncActorRollouts:
        envs = [VectorEnv("CartPole-v1", seed=seed + k) for k in range(3)]
        return AsyncActorRollouts([policy(k) for k in range(3)], envs, 7, seed=1)

    one, other = make(0), make(10)
    for expected in (0, 1, 2, 0):
        assert next(one)[0] == expected
    other.load_state_dict(reload(one))
    assert all(same(next(one), next(other)) for _ in range(6))
    rollout = next(one)[1]
    assert (rollout.number, rollout.env_steps) == (10, 77)


def test_async_actors_draw_their_own_actions_and_other_ones_in_each_rollout():
    def actions(seed: int) -> list[tuple]:
        envs = [VectorEnv("CartPole-v1", seed=0) for _ in range(2)]
        stream = AsyncActorRollouts([policy(), policy()], envs, 12, seed=seed)
        return [tuple(next(stream)[1].action.flatten().tolist()) for _ in range(4)]

    one, again, other = actions(1), actions(1), actions(2)
    print(one, other)
    assert one == again
    assert len({*one, *other}) == 8


def test_episode_rollouts_pad_after_episode_end():
    stream = EpisodeRollouts(policy(), VectorEnv("CartPole-v1", 6, max_episode_steps=30), seed=0)
    for number in range(4):
        rollout, is_live = next(stream)
        lengths = is_live.sum(0)
        assert is_live[0].all()
        assert (is_live[1:] <= is_live[:-1]).all(), "once over, it stays so"
        assert torch.equal(rollout.reward.sum(0), lengths.float())
        assert rollout.returns == lengths.tolist()
        final = lengths - 1
        ended = rollout.terminated | rollout.truncated
        assert ended[final, torch.arange(6)].all()
        assert not rollout.reward[~is_live].any()
        assert rollout.terminated[~is_live].all()
        truncated = rollout.truncated & ~rollout.terminated
        assert len(rollout.final_observations) == truncated.sum()
        if len(rollout.final_observations):
            before = rollout.observation[truncated]
            torch.testing.assert_close(rollout.final_observations[:, 0], before[:, 0] + 0.02 * before[:, 1])
        assert rollout.number == number
    assert rollout.env_steps == stream.env_steps > 0
    other = EpisodeRollouts(policy(), VectorEnv("CartPole-v1", 6, max_episode_steps=30, seed=4), seed=0)
    other.load_state_dict(reload(stream))
    assert same(next(stream), next(other))
