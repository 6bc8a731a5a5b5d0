"""VectorEnv: ends of two kinds kept apart, errors that say where, and a state that goes on bit for bit."""

import io
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.envs.backends import SyncVectorEnv, VectorCartPole
from torchstone.envs.make import check_spaces
from torchstone.envs.vector_env import EPISODE_BOUND, VectorEnv, is_snapshot_exact
from torchstone.errors import BadInput
from torchstone.parts.old_keys import with_new_names


class Corridor(gymnasium.Env):
    """Walk to the right; the episode terminates at step 4. `fault` names what goes wrong at step 3."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault: str = "none"):
        self.fault, self.position = fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = 0
        return self._observation(), {}

    def _observation(self):
        return np.array([self.position, 0.5], np.float32)

    def step(self, action):
        self.position += 1
        is_third = self.position == 3
        if self.fault == "raises" and is_third:
            raise RuntimeError("the wheel\ncame off")
        observation, reward = self._observation(), 1.0 + int(action)
        if self.fault == "observes nan" and is_third:
            observation[1] = np.nan
        if self.fault == "rewards nan" and is_third:
            reward = float("nan")
        if self.fault == "grows" and is_third:
            observation = np.zeros(3, np.float32)
        return observation, reward, self.position == 4, False, {}


gymnasium.register("Corridor-v0", entry_point=Corridor)
gymnasium.register("ShortCorridor-v0", entry_point=Corridor, max_episode_steps=3)


def actions(count: int, action: int = 1) -> torch.Tensor:
    return torch.full((count,), action)


def test_vector_env_separates_termination_and_truncation():
    envs = VectorEnv("Corridor-v0", 2)
    steps = [envs.step(actions(2)) for _ in range(5)]
    assert [s.terminated.tolist() for s in steps] == [[k == 3] * 2 for k in range(5)]
    assert not any(s.truncated.any() for s in steps)
    assert [s.next_observation[0, 0].item() for s in steps] == [1, 2, 3, 4, 1]  # 4, though the env was reset
    assert [s.returns for s in steps] == [[], [], [], [8.0, 8.0], []]
    cut = VectorEnv("ShortCorridor-v0", 2)
    steps = [cut.step(actions(2, 0)) for _ in range(4)]
    assert [s.truncated.tolist() for s in steps] == [[k == 2] * 2 for k in range(4)]
    assert not any(s.terminated.any() for s in steps)
    assert [s.next_observation[0, 0].item() for s in steps] == [1, 2, 3, 1]
    assert cut.observation[0, 0] == 1


def test_vector_env_max_episode_steps():
    assert [
        bool(VectorEnv("Corridor-v0", max_episode_steps=2).step(actions(1)).truncated) for _ in range(1)
    ] == [False]
    envs = VectorEnv("Corridor-v0", max_episode_steps=2)
    envs.step(actions(1))
    assert envs.step(actions(1)).truncated.all()
    free = VectorEnv("ShortCorridor-v0", max_episode_steps=0)
    ends = [free.step(actions(1)) for _ in range(4)]
    assert [bool(s.truncated) for s in ends] == [False] * 4
    assert bool(ends[3].terminated)


def test_vector_env_cartpole_without_a_limit():
    """Four and more poles are gymnasium's own vector form, which has a limit always."""
    kinds = [type(VectorEnv("CartPole-v1", 4, max_episode_steps=limit).backend) for limit in (None, 7, 0)]
    print([kind.__name__ for kind in kinds])
    assert kinds == [VectorCartPole, VectorCartPole, SyncVectorEnv]


def test_vector_env_returns_ignore_reward_wrappers():
    envs = VectorEnv("Corridor-v0", wrappers=["ClipReward:max_reward=0.5"])
    steps = [envs.step(actions(1)) for _ in range(4)]
    assert [float(s.reward) for s in steps] == [0.5] * 4
    assert steps[-1].returns == [8.0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "failed at step 3 on action 1: RuntimeError: the wheel came off"),
        ("observes nan", "gave an observation that is NaN or infinite at step 3, on action 1"),
        ("rewards nan", "gave a reward that is NaN or infinite at step 3, on action 1"),
        ("grows", "changed its observation space at step 3, on action 1: shape (3,), was (2,)"),
    ],
)
def test_vector_env_errors_name_step_and_action(fault, message):
    name = f"Corridor{fault.title().replace(' ', '')}-v0"
    gymnasium.register(name, entry_point=Corridor, kwargs={"fault": fault})
    envs = VectorEnv(name, 2)
    for _ in range(2):
        envs.step(actions(2))
    with pytest.raises(BadInput) as caught:
        envs.step(actions(2))
    print(caught.value)
    assert str(caught.value) == f"{name}: env 0 {message}"


def test_vector_cartpole_equals_sync_vector_env():
    native, loop = VectorEnv("CartPole-v1", 4, seed=1), VectorEnv("CartPole-v1", 4, seed=1)
    loop.backend = SyncVectorEnv("CartPole-v1", 4, (), None, False)
    assert isinstance(native.backend, VectorCartPole)
    loop.reset(1)
    generator = torch.Generator().manual_seed(0)
    compared, episodes = 0, []
    for _ in range(300):
        for index, env in enumerate(loop.backend.envs):  # in the same place, at the same time
            env.unwrapped.state = tuple(native.backend.env.state[:, index])
            env.unwrapped.steps_beyond_terminated = None
            loop.backend.episode_lengths[index] = int(native.backend.env.steps[index])
            loop.backend.episode_returns[index] = float(native.backend.episode_returns[index])
        action = torch.randint(2, (4,), generator=generator)
        a, b = native.step(action), loop.step(action)
        torch.testing.assert_close(a.next_observation, b.next_observation, rtol=1e-6, atol=1e-7)
        for name in ("reward", "terminated", "truncated"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert a.returns == b.returns
        ended = a.terminated | a.truncated
        assert (native.observation[ended].abs() <= 0.05).all()
        assert (a.next_observation[ended].abs().max(1).values > 0.05).all() if ended.any() else True
        compared, episodes = compared + 4, episodes + a.returns
    print(f"{compared} steps, {len(episodes)} episodes of mean return {np.mean(episodes):.1f}")
    assert len(episodes) > 20


def play_steps(envs: VectorEnv, count: int, steps: int) -> list[torch.Tensor]:
    generator, values = torch.Generator().manual_seed(5), []
    for _ in range(steps):
        if envs.is_discrete:
            action = torch.randint(int(envs.action_space.n), (count,), generator=generator)
        else:
            action = 2 * torch.rand(count, *envs.action_space.shape, generator=generator) - 1
        step = envs.step(action)
        values += [*step[:4], torch.tensor(step.returns), envs.observation]
    return values


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
def test_vector_env_resumes_bit_exact(spec, count, wrappers):
    options = {"wrappers": wrappers, "max_episode_steps": 100}
    one = VectorEnv(spec, count, seed=3, **options)
    assert one.is_exact
    play_steps(one, count, 37)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    expected = play_steps(one, count, 250)
    other = VectorEnv(spec, count, seed=99, **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    values = play_steps(other, count, 250)
    ends = sum(int(x.sum()) for x in [*expected[2::6], *expected[3::6]])
    print(f"{spec}: {len(expected)} tensors the same, {ends} ends among them")
    assert all(torch.equal(a, b) for a, b in zip(expected, values, strict=True))
    assert ends


def test_vector_env_without_snapshot_begins_new_episodes():
    one = VectorEnv("LunarLander-v3", 2, seed=0)
    assert not one.is_exact
    began = one.observation.clone()
    play_steps(one, 2, 30)
    other = VectorEnv("LunarLander-v3", 2, seed=7)
    other.load_state_dict(one.state_dict())
    assert other.num_steps == 30
    assert not torch.equal(other.observation, began), "the episodes of the beginning once more"


def test_is_snapshot_exact_detects_hidden_state():
    class Hidden(Corridor):
        def reset(self, *, seed=None, options=None):
            generator = np.random.default_rng(seed)
            self.draw = lambda: generator.random()  # in a closure: no attribute says it
            return super().reset(seed=seed)

        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, reward + self.draw(), *rest

    gymnasium.register("Hidden-v0", entry_point=Hidden)
    assert is_snapshot_exact("Corridor-v0")
    assert not is_snapshot_exact("Hidden-v0")


def test_vector_env_seeds_are_reproducible_and_disjoint():
    a, b, c = (VectorEnv("CartPole-v1", 4, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.observation, b.observation)
    assert not torch.isin(a.observation, c.observation).any(), "two seeds share an episode"
    first = a.observation.clone()
    play_steps(a, 4, 20)
    assert torch.equal(a.reset(1), first)


def test_vector_env_flattens_observations_and_clips_actions():
    lake = VectorEnv("FrozenLake-v1", 2)
    assert lake.observation.shape == (2, 16)
    assert lake.observation.sum() == 2
    pendulum = VectorEnv("Pendulum-v1", 2, seed=0)
    other = VectorEnv("Pendulum-v1", 2, seed=0)
    a, b = (w.step(torch.full((2, 1), x)) for w, x in ((pendulum, 2.0), (other, 50.0)))
    assert torch.equal(a.reward, b.reward), "beyond the bounds is at the bounds"
    assert a.next_observation.dtype == torch.float32


def test_make_env_errors_name_a_remedy():
    cases = [
        (lambda: VectorEnv("CartPole-v7"), "CartPole-v1"),
        (lambda: VectorEnv("Nowhere-v0"), "no environment 'Nowhere-v0'"),
        (lambda: VectorEnv("Pendulum-v1", wrappers=["ClipRewards"]), "did you mean ClipReward"),
        (lambda: VectorEnv("Pendulum-v1", wrappers=["ClipReward:highest=1"]), "does not fit"),
        (lambda: VectorEnv("Pendulum-v1", 0), "at least 1 env"),
        (lambda: check_spaces("Pendulum-v1", "discrete", "dqn"), "try sac, td3, ddpg or ppo"),
        (lambda: check_spaces("CartPole-v1", "continuous", "ddpg"), "try dqn, a2c or ppo"),
    ]
    for call, message in cases:
        with pytest.raises(BadInput) as caught:
            call()
        print(caught.value)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert check_spaces("Pendulum-v1", "any", "ppo")[1].shape == (1,)


def test_select_observation_hides_other_entries():
    name = "PartialObservation:keep=0,2"
    part, full = (VectorEnv("CartPole-v1", 2, seed=3, wrappers=w) for w in ([name], []))
    assert part.is_exact
    for number in range(60):
        action = torch.tensor([number % 2, 1])
        a, b = part.step(action), full.step(action)
        assert torch.equal(a.next_observation, b.next_observation[:, [0, 2]])
        assert torch.equal(part.observation, full.observation[:, [0, 2]])
    with pytest.raises(BadInput, match="indices 0 to n - 1"):
        VectorEnv("CartPole-v1", wrappers=["PartialObservation:keep=0,4"])


@pytest.mark.parametrize("num_envs", [2, 4])
def test_vector_env_reads_states_of_earlier_versions(num_envs):
    one, other = (VectorEnv("CartPole-v1", num_envs, seed=seed) for seed in (0, 9))
    play_steps(one, num_envs, 9)
    state = one.state_dict()
    backend = {"envs": "worlds", "episode_lengths": "elapsed", "episode_returns": "totals"}
    backend |= {"action_mask": "mask", "env": "form"}
    state["backend"] = with_new_names(state["backend"], backend)
    other.load_state_dict(with_new_names(state, {"num_steps": "steps", "backend": "kind"}))
    pairs = zip(play_steps(one, num_envs, 60), play_steps(other, num_envs, 60), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class Faulty(gymnasium.Env):
    """It breaks Gymnasium's interface as its `fault` says, at reset or in the second step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault: str):
        self.fault, self.steps = fault, 0

    def observation(self) -> Any:
        is_late, zeros = self.steps == 2, np.zeros(2, np.float32)
        return {
            "no observation": None,
            "ragged": [0, [1]],
            "words": ["left", "right"],
            "nan at reset": zeros if self.steps else zeros + np.nan,
            "late shape": zeros[:1] if is_late else zeros,
        }.get(self.fault, zeros)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        if self.fault == "bare reset":
            return self.observation()
        return self.observation(), None if self.fault == "no info" else {}

    def step(self, action):
        self.steps += 1
        if self.fault == "exit" and self.steps == 2:
            raise SystemExit(3)
        if self.fault == "four values":
            return self.observation(), 1.0, False, {}
        end = np.array([True, False]) if self.fault == "two ends" else False
        return self.observation(), 1.0, end, None, {}

    def close(self):
        raise RuntimeError("cannot be closed twice")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "bare reset",
            r"at reset: TypeError: Gymnasium's reset gives \(observation, info\), and it gave ndarray",
        ),
        ("no info", "it gave an info of NoneType"),
        ("four values", "at step 1 on action 0: TypeError: Gymnasium's step gives .*, and it gave 4 values"),
        ("two ends", "at step 1 on action 0: ValueError"),
        ("no observation", r"the observation has shape \(\)"),
        ("ragged", "at reset: ValueError"),
        ("words", "at reset: TypeError: the observation is no array of numbers"),
        ("nan at reset", "an observation that is NaN or infinite at a reset after step 0"),
        ("late shape", "changed its observation space at step 2"),
        ("exit", "failed at step 2 on action 0: SystemExit: 3"),
        ("none", None),
    ],
)
def test_vector_env_says_in_one_line_what_an_env_does_wrong(fault, message):
    name = "Faulty-v0"
    gymnasium.registry.pop(name, None)
    gymnasium.register(name, entry_point=Faulty, kwargs={"fault": fault})

    def play() -> VectorEnv:
        envs = VectorEnv(name)
        for _ in range(3):
            envs.step(torch.zeros(1, dtype=torch.int64))
        return envs

    if message is None:
        play().close()  # what it raises then changes nothing
        return
    with pytest.raises(BadInput, match=message) as caught:
        play()
    print(caught.value)
    assert "\n" not in str(caught.value)


class Echo(gymnasium.Env):
    """The observation is the action; an action that is not in its space is refused."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, dtype: type, low: float, high: float):
        self.action_space = gymnasium.spaces.Box(low, high, (2,), dtype)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        return action.astype(float), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("dtype", "bounds", "expected"),
    [
        (np.float32, (-1, 1), [0.625, 1]),
        (np.float64, (0, 0.5), [0.5, 0.5]),
        (np.float16, (-1, 1), [0.625, 1]),
        (np.int32, (0, 4), [1, 4]),
        (np.int8, (-3, -2), [-2, -2]),
        (np.float32, (2, 2), [2, 2]),
    ],
)
def test_vector_env_gives_continuous_actions_in_the_type_and_bounds_of_their_space(dtype, bounds, expected):
    name = "Echo-v0"
    gymnasium.registry.pop(name, None)
    gymnasium.register(name, entry_point=Echo, kwargs={"dtype": dtype, "low": bounds[0], "high": bounds[1]})
    step = VectorEnv(name).step(torch.tensor([[0.625, 7.0]]))
    print(dtype, bounds, step.next_observation)
    assert step.next_observation.tolist() == [expected]


class Choice(Echo):
    """The observation is the action, twice; the reward is the action too."""

    def __init__(self, count: int, start: int):
        self.action_space = gymnasium.spaces.Discrete(count, start=start)

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        return np.full(2, float(action)), float(action), False, False, {}


@pytest.mark.parametrize("start", [0, 1, -2])
def test_vector_env_counts_discrete_actions_from_their_start(start):
    name = "Choice-v0"
    gymnasium.registry.pop(name, None)
    gymnasium.register(name, entry_point=Choice, kwargs={"count": 3, "start": start})
    step = VectorEnv(name, 3).step(torch.arange(3))
    print(start, step.next_observation[:, 0], step.reward)
    assert step.next_observation[:, 0].tolist() == [start, start + 1, start + 2]
    assert step.reward.tolist() == [start, start + 1, start + 2]


@pytest.mark.parametrize(("limit", "expected"), [(None, 500), (20, 20)])
def test_time_aware_observation_knows_the_time_limit(limit, expected):
    envs = VectorEnv(
        "CartPole-v1", wrappers=("TimeAwareObservation:normalize_time=True",), max_episode_steps=limit
    )
    step = envs.step(torch.zeros(1, dtype=torch.int64))
    print(limit, step.next_observation)
    assert step.next_observation[0, -1].item() == pytest.approx(1 / expected)
    assert envs.episode_limit == expected


@pytest.mark.parametrize(
    ("dtype", "bounds", "action", "expected"),
    [
        (np.float32, (100, 200), [-1.0, 0.5], [100, 175]),
        (np.uint8, (0, 255), [-2.0, 0.02], [0, 130]),
        (np.float64, (3, 3), [0.0, 1.0], [3, 3]),
    ],
)
def test_unit_action_stretches_to_the_bounds(dtype, bounds, action, expected):
    name = "Echo-v0"
    gymnasium.registry.pop(name, None)
    gymnasium.register(name, entry_point=Echo, kwargs={"dtype": dtype, "low": bounds[0], "high": bounds[1]})
    step = VectorEnv(name, wrappers=("UnitAction",)).step(torch.tensor([action]))
    print(dtype, bounds, action, step.next_observation)
    assert step.next_observation.tolist() == [expected]
    for spec in ("CartPole-v1", "Free-v0"):
        gymnasium.registry.pop("Free-v0", None)
        gymnasium.register("Free-v0", Echo, kwargs={"dtype": np.float32, "low": -np.inf, "high": 1})
        with pytest.raises(BadInput, match="UnitAction takes actions of a Box with finite bounds"):
            VectorEnv(spec, wrappers=("UnitAction",))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_vector_env_refuses_frames_beyond_their_bounds_at_every_step(dtype):
    """A first black frame is within any bounds."""

    class Brightening(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (1, 84, 84), dtype)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros((1, 84, 84), dtype), {}

        def step(self, action):
            return np.full((1, 84, 84), 255, dtype), 0.0, False, False, {}

    gymnasium.registry.pop("Brightening-v0", None)
    gymnasium.register("Brightening-v0", entry_point=Brightening)
    envs = VectorEnv("Brightening-v0")
    with pytest.raises(
        BadInput, match="at step 1 observations from 255 to 255, and its space states 0 to 1"
    ) as e:
        envs.step(torch.zeros(1, dtype=torch.int64))
    print(e.value)


@pytest.mark.parametrize(
    ("spec", "wrappers", "limit", "expected"),
    [
        ("CartPole-v1", (), None, 500),
        ("CartPole-v1", ("SignReward",), 9, 9),
        ("CliffWalking-v1", (), None, None),
        ("CliffWalking-v1", ("TimeLimit:max_episode_steps=3000",), None, 3000),
        ("ALE/Pong-v5", ("AtariPreprocessing",), None, 27_000),
        ("ALE/Pong-v5", (), None, 27_000),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 4])
def test_episode_limit_is_what_the_env_or_a_wrapper_states(spec, wrappers, limit, expected, num_envs):
    envs = VectorEnv(spec, num_envs, wrappers=wrappers, max_episode_steps=limit)
    print(spec, wrappers, num_envs, envs.episode_limit)
    assert envs.episode_limit == expected
    assert envs.bound_episodes() == (None if expected else EPISODE_BOUND)
    assert envs.episode_limit == (expected or EPISODE_BOUND)
