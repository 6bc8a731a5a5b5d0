"""Worlds: ends of two kinds kept apart, errors that say where, and a state that goes on bit for bit."""

import io

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.envs.backends import CartPoles, Loop
from torchstone.envs.vector_env import Worlds, copies, needs
from torchstone.errors import BadInput


class Corridor(gymnasium.Env):
    """Walk to the right; step 4 ends it for good. What it does besides is told by `fault`."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault: str = "none"):
        self.fault, self.place = fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self._seen(), {}

    def _seen(self):
        return np.array([self.place, 0.5], np.float32)

    def step(self, action):
        self.place += 1
        late = self.place == 3
        if self.fault == "raises" and late:
            raise RuntimeError("the wheel\ncame off")
        seen, reward = self._seen(), 1.0 + int(action)
        if self.fault == "observes nan" and late:
            seen[1] = np.nan
        if self.fault == "rewards nan" and late:
            reward = float("nan")
        if self.fault == "grows" and late:
            seen = np.zeros(3, np.float32)
        return seen, reward, self.place == 4, False, {}


gymnasium.register("Corridor-v0", entry_point=Corridor)
gymnasium.register("ShortCorridor-v0", entry_point=Corridor, max_episode_steps=3)


def acted(count: int, action: int = 1) -> torch.Tensor:
    return torch.full((count,), action)


def test_the_end_and_the_clock_are_kept_apart_and_the_last_state_is_kept():
    worlds = Worlds("Corridor-v0", 2)
    steps = [worlds.step(acted(2)) for _ in range(5)]
    assert [s.terminated.tolist() for s in steps] == [[k == 3] * 2 for k in range(5)]
    assert not any(s.truncated.any() for s in steps)
    assert [s.observation[0, 0].item() for s in steps] == [1, 2, 3, 4, 1]  # 4, though it began anew
    assert [s.returns for s in steps] == [[], [], [], [8.0, 8.0], []]
    cut = Worlds("ShortCorridor-v0", 2)
    steps = [cut.step(acted(2, 0)) for _ in range(4)]
    assert [s.truncated.tolist() for s in steps] == [[k == 2] * 2 for k in range(4)]
    assert not any(s.terminated.any() for s in steps)
    assert [s.observation[0, 0].item() for s in steps] == [1, 2, 3, 1]
    assert cut.observation[0, 0] == 1


def test_a_limit_of_ones_own_and_none():
    assert [bool(Worlds("Corridor-v0", limit=2).step(acted(1)).truncated) for _ in range(1)] == [False]
    worlds = Worlds("Corridor-v0", limit=2)
    worlds.step(acted(1))
    assert worlds.step(acted(1)).truncated.all()
    free = Worlds("ShortCorridor-v0", limit=0)
    ends = [free.step(acted(1)) for _ in range(4)]
    assert [bool(s.truncated) for s in ends] == [False] * 4
    assert bool(ends[3].terminated)


def test_returns_are_the_worlds_own_and_rewards_the_wrappers():
    worlds = Worlds("Corridor-v0", wrappers=["ClipReward:max_reward=0.5"])
    steps = [worlds.step(acted(1)) for _ in range(4)]
    assert [float(s.reward) for s in steps] == [0.5] * 4
    assert steps[-1].returns == [8.0]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "failed at step 3 on action 1: RuntimeError: the wheel came off"),
        ("observes nan", "gave an observation that is NaN or infinite at step 3, on action 1"),
        ("rewards nan", "gave a reward that is NaN or infinite at step 3, on action 1"),
        ("grows", "changed its observation space at step 3, on action 1: shape (3,), was (2,)"),
    ],
)
def test_what_a_world_does_wrong_is_said_with_step_and_action(fault, said):
    name = f"Corridor{fault.title().replace(' ', '')}-v0"
    gymnasium.register(name, entry_point=Corridor, kwargs={"fault": fault})
    worlds = Worlds(name, 2)
    for _ in range(2):
        worlds.step(acted(2))
    with pytest.raises(BadInput) as caught:
        worlds.step(acted(2))
    print(caught.value)
    assert str(caught.value) == f"{name}: world 0 {said}"


def test_the_native_cartpole_is_the_looped_one():
    native, loop = Worlds("CartPole-v1", 4, seed=1), Worlds("CartPole-v1", 4, seed=1)
    loop.kind = Loop("CartPole-v1", 4, (), None, False)
    assert isinstance(native.kind, CartPoles)
    loop.reset(1)
    generator = torch.Generator().manual_seed(0)
    compared, episodes = 0, []
    for _ in range(300):
        for index, world in enumerate(loop.kind.worlds):  # in the same place, at the same time
            world.unwrapped.state = tuple(native.kind.form.state[:, index])
            world.unwrapped.steps_beyond_terminated = None
            loop.kind.elapsed[index] = int(native.kind.form.steps[index])
            loop.kind.totals[index] = float(native.kind.totals[index])
        action = torch.randint(2, (4,), generator=generator)
        a, b = native.step(action), loop.step(action)
        torch.testing.assert_close(a.observation, b.observation, rtol=1e-6, atol=1e-7)
        for name in ("reward", "terminated", "truncated"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert a.returns == b.returns
        ended = a.terminated | a.truncated
        assert (native.observation[ended].abs() <= 0.05).all()
        assert (a.observation[ended].abs().max(1).values > 0.05).all() if ended.any() else True
        compared, episodes = compared + 4, episodes + a.returns
    print(f"{compared} steps, {len(episodes)} episodes of mean return {np.mean(episodes):.1f}")
    assert len(episodes) > 20


def went_on(worlds: Worlds, count: int, steps: int) -> list[torch.Tensor]:
    generator, found = torch.Generator().manual_seed(5), []
    for _ in range(steps):
        if worlds.discrete:
            action = torch.randint(int(worlds.actions.n), (count,), generator=generator)
        else:
            action = 2 * torch.rand(count, *worlds.actions.shape, generator=generator) - 1
        step = worlds.step(action)
        found += [*step[:4], torch.tensor(step.returns), worlds.observation]
    return found


@pytest.mark.parametrize(
    ("spec", "count", "wrappers"),
    [
        ("CartPole-v1", 1, ()),
        ("CartPole-v1", 8, ()),
        ("CartPole-v1", 2, ("FrameStackObservation:stack_size=3", "FlattenObservation")),
        ("Acrobot-v1", 2, ()),
        ("Pendulum-v1", 2, ()),
        ("MountainCarContinuous-v0", 1, ()),
        ("FrozenLake-v1", 3, ()),
        ("Hopper-v5", 2, ()),
    ],
)
def test_a_state_put_into_fresh_worlds_goes_on_bit_for_bit(spec, count, wrappers):
    options = {"wrappers": wrappers, "limit": 100}
    one = Worlds(spec, count, seed=3, **options)
    assert one.exact
    went_on(one, count, 37)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    wanted = went_on(one, count, 250)
    other = Worlds(spec, count, seed=99, **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    found = went_on(other, count, 250)
    ends = sum(int(x.sum()) for x in [*wanted[2::6], *wanted[3::6]])
    print(f"{spec}: {len(wanted)} tensors the same, {ends} ends among them")
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert ends


def test_a_world_that_cannot_be_copied_says_so_and_begins_new_episodes():
    one = Worlds("LunarLander-v3", 2, seed=0)
    assert not one.exact
    began = one.observation.clone()
    went_on(one, 2, 30)
    other = Worlds("LunarLander-v3", 2, seed=7)
    other.load_state_dict(one.state_dict())
    assert other.steps == 30
    assert not torch.equal(other.observation, began), "the episodes of the beginning once more"


def test_copies_finds_out_a_world_that_hides_its_state():
    class Hidden(Corridor):
        def reset(self, *, seed=None, options=None):
            generator = np.random.default_rng(seed)
            self.draw = lambda: generator.random()  # in a closure: no attribute says it
            return super().reset(seed=seed)

        def step(self, action):
            seen, reward, *rest = super().step(action)
            return seen, reward + self.draw(), *rest

    gymnasium.register("Hidden-v0", entry_point=Hidden)
    assert copies("Corridor-v0")
    assert not copies("Hidden-v0")


def test_seeds():
    a, b, c = (Worlds("CartPole-v1", 4, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.observation, b.observation)
    assert not torch.isin(a.observation, c.observation).any(), "two seeds share a world"
    first = a.observation.clone()
    went_on(a, 4, 20)
    assert torch.equal(a.reset(1), first)


def test_observations_and_actions():
    lake = Worlds("FrozenLake-v1", 2)
    assert lake.observation.shape == (2, 16)
    assert lake.observation.sum() == 2
    pendulum = Worlds("Pendulum-v1", 2, seed=0)
    other = Worlds("Pendulum-v1", 2, seed=0)
    a, b = (w.step(torch.full((2, 1), x)) for w, x in ((pendulum, 2.0), (other, 50.0)))
    assert torch.equal(a.reward, b.reward), "beyond the bounds is at the bounds"
    assert a.observation.dtype == torch.float32


def test_what_cannot_be_opened_or_chosen_is_said():
    asks = [
        (lambda: Worlds("CartPole-v7"), "CartPole-v1"),
        (lambda: Worlds("Nowhere-v0"), "no world 'Nowhere-v0'"),
        (lambda: Worlds("Pendulum-v1", wrappers=["ClipRewards"]), "did you mean ClipReward"),
        (lambda: Worlds("Pendulum-v1", wrappers=["ClipReward:highest=1"]), "does not fit"),
        (lambda: Worlds("Pendulum-v1", 0), "at least 1 world"),
        (lambda: needs("Pendulum-v1", "discrete", "dqn"), "try ddpg or ppo"),
        (lambda: needs("CartPole-v1", "continuous", "ddpg"), "try dqn, a2c or ppo"),
    ]
    for ask, said in asks:
        with pytest.raises(BadInput) as caught:
            ask()
        print(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert needs("Pendulum-v1", "any", "ppo")[1].shape == (1,)


def test_what_is_hidden_is_not_seen():
    name = "PartialObservation:keep=0,2"
    part, whole = (Worlds("CartPole-v1", 2, seed=3, wrappers=w) for w in ([name], []))
    assert part.exact
    for number in range(60):
        action = torch.tensor([number % 2, 1])
        a, b = part.step(action), whole.step(action)
        assert torch.equal(a.observation, b.observation[:, [0, 2]])
        assert torch.equal(part.observation, whole.observation[:, [0, 2]])
    with pytest.raises(BadInput, match="places 0 to n - 1"):
        Worlds("CartPole-v1", wrappers=["PartialObservation:keep=0,4"])
