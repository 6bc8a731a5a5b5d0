"""Rollouts: what was done where, the same from the same seed, and gone on with bit for bit."""

import io

import torch

from torchstone.envs.episodes import Episodes
from torchstone.envs.rollouts import Rollouts, Turns
from torchstone.envs.vector_env import Worlds
from torchstone.parts.rl.actor_critic import ActorCritic


def policy(seed: int = 0) -> ActorCritic:
    torch.manual_seed(seed)
    return ActorCritic((4,), 2, hidden=(8,))


def kept(stream) -> dict:
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flat(batch) -> list[torch.Tensor]:
    parts = [x for part in batch for x in (part if isinstance(part, tuple) else (part,))]
    return [torch.as_tensor(x) for x in parts if x is not None]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def test_rows_follow_one_another_unless_an_episode_ends():
    stream = Rollouts(policy(), Worlds("CartPole-v1", 4, limit=15), 40, seed=0)
    one, two = next(stream), next(stream)
    seen = torch.cat([one.observation, two.observation])
    ended = torch.cat([one.terminated | one.truncated, two.terminated | two.truncated])
    assert torch.equal(one.last, two.observation[0])
    fresh = seen[1:].abs().amax(-1) <= 0.05
    assert fresh[ended[:-1]].all(), "an episode begins after one that ended"
    assert (~fresh[~ended[:-1]]).float().mean() > 0.9
    cut = one.truncated & ~one.terminated
    assert len(one.cuts) == cut.sum() > 3
    assert (one.cuts.abs().amax(-1) > 0.05).all(), "the last states, not those that came after"
    # what was cut at is where the equations lead from the row before: the cart moves by its speed
    before = one.observation[cut]
    torch.testing.assert_close(one.cuts[:, 0], before[:, 0] + 0.02 * before[:, 1])
    assert len(one.returns) == (one.terminated | one.truncated).sum()
    assert (one.number, two.number, two.frames) == (0, 1, 320)


def test_actions_are_drawn_from_the_policy_that_is_there_now():
    model = policy()
    stream = Rollouts(model, Worlds("CartPole-v1", 4), 50, seed=0)
    with torch.no_grad():
        model.actor[-1].bias.copy_(torch.tensor([0.0, 2.0]))
    share = float(next(stream).action.float().mean())
    with torch.no_grad():
        model.actor[-1].bias.copy_(torch.tensor([2.0, 0.0]))
    other = float(next(stream).action.float().mean())
    print("share of action 1", share, other, "wanted", 0.881, 0.119)
    assert abs(share - 0.881) < 0.08
    assert abs(other - 0.119) < 0.08


def test_rollouts_go_on_bit_for_bit():
    def made(seed: int) -> Rollouts:
        return Rollouts(policy(), Worlds("CartPole-v1", 4, seed=seed), 20, seed=1)

    one, other = made(0), made(8)
    next(one)
    state = kept(one)
    other.load_state_dict(state)
    assert all(same(next(one), next(other)) for _ in range(5))
    again, another = made(0), made(3)
    assert same(next(again), next(made(0)))
    assert not same(next(again), next(another))


def test_turns_go_on_bit_for_bit_and_each_actor_has_a_policy_of_its_own():
    def made(seed: int) -> Turns:
        worlds = [Worlds("CartPole-v1", seed=seed + k) for k in range(3)]
        return Turns([policy(k) for k in range(3)], worlds, 7, seed=1)

    one, other = made(0), made(10)
    for wanted in (0, 1, 2, 0):
        assert next(one)[0] == wanted
    other.load_state_dict(kept(one))
    assert all(same(next(one), next(other)) for _ in range(6))
    rollout = next(one)[1]
    assert (rollout.number, rollout.frames) == (10, 77)


def test_episodes_are_whole_and_blank_after_their_end():
    stream = Episodes(policy(), Worlds("CartPole-v1", 6, limit=30), seed=0)
    for number in range(4):
        rollout, live = next(stream)
        lengths = live.sum(0)
        assert live[0].all()
        assert (live[1:] <= live[:-1]).all(), "once over, it stays so"
        assert torch.equal(rollout.reward.sum(0), lengths.float())
        assert rollout.returns == lengths.tolist()
        final = lengths - 1
        ended = rollout.terminated | rollout.truncated
        assert ended[final, torch.arange(6)].all()
        assert not rollout.reward[~live].any()
        assert rollout.terminated[~live].all()
        cut = rollout.truncated & ~rollout.terminated
        assert len(rollout.cuts) == cut.sum()
        if len(rollout.cuts):
            before = rollout.observation[cut]
            torch.testing.assert_close(rollout.cuts[:, 0], before[:, 0] + 0.02 * before[:, 1])
        assert rollout.number == number
    assert rollout.frames == stream.frames > 0
    other = Episodes(policy(), Worlds("CartPole-v1", 6, limit=30, seed=4), seed=0)
    other.load_state_dict(kept(stream))
    assert same(next(stream), next(other))
