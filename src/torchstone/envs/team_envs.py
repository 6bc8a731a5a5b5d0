"""Environments of several agents that act at once: PettingZoo's parallel environments and matrix games.

A specification is `pettingzoo:MODULE` for one that has a `parallel_env`, `pettingzoo:mpe2.simple_spread_v3`,
with arguments after another colon, `pettingzoo:mpe2.simple_spread_v3:N=2,local_ratio=0.0`; or `matrix:NAME`.

Agents are numbered in the order of `possible_agents`. One that has left, or is not there yet, is not
`present`: its observation is 0, its action is not used, and it has no reward. Observations are padded with
zeros to the longest, and `action_counts` says how many actions each agent has.
"""

import ast
import contextlib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from torchstone.envs.matrix_games import PAYOFFS, PREFIX, TWO_STEP, describe
from torchstone.envs.particle_envs import EPISODE_STEPS, SCENARIOS
from torchstone.errors import BadInput, did_you_mean, first_line

PETTINGZOO = "pettingzoo:"
INSTALL = "pip install 'torchstone[multiagent]'"


class Team(NamedTuple):
    """Who is there, and what each sees and does."""

    agents: tuple[str, ...]
    observation_sizes: tuple[int, ...]
    action_counts: tuple[int, ...]

    @property
    def action_mask(self) -> Bool[Tensor, "agent action"]:
        """Which actions each agent has."""
        return torch.arange(max(self.action_counts)) < torch.tensor(self.action_counts)[:, None]


class TeamStep(NamedTuple):
    """One step of all episodes. Agents of an episode that is over are not present."""

    observation: Float32[Tensor, "episode agent feature"]  # what the action led to; 0 for who is not there
    reward: Float32[Tensor, "episode agent"]
    terminated: Bool[Tensor, "episode agent"]  # the agent has left: what follows has value 0
    truncated: Bool[Tensor, "episode agent"]  # the agent was cut off: bootstrap from `observation`
    present: Bool[Tensor, "episode agent"]  # acts next


@runtime_checkable
class TeamEnvs(Protocol):
    """Many episodes side by side, each from a seed of its own."""

    team: Team

    def reset(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]: ...  # observation, present
    def step(self, action: Int64[Tensor, "episode agent"]) -> TeamStep: ...


def make_team_envs(spec: str, *, exact: bool = False) -> TeamEnvs:
    """
    Args:
        exact: play the package's own environment, also where its equations are computed on arrays here.

    Raises:
        BadInput: no such environment or game; a package that is not installed; agents that cannot be
            numbered, or whose spaces are not vectors and discrete actions.
    """
    if spec.startswith(PREFIX):
        return MatrixEnvs(spec)
    if not spec.startswith(PETTINGZOO):
        raise BadInput(
            f"{spec!r} is no environment of several agents: {PETTINGZOO}mpe2.simple_spread_v3, or {PREFIX}"
            f"two_step, climbing or penalty; of one agent: ppo or dqn"
        )
    name, arguments = read_spec(spec)
    module = import_environment(name)
    if name in SCENARIOS and not arguments and not exact:
        return ParticleEnvs(SCENARIOS[name]())
    return PettingZooEnvs(spec, module, arguments)


def read_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Module and arguments of `pettingzoo:MODULE:name=value,…`.

    Raises:
        BadInput: an argument without a value.
    """
    name, _, text = spec.removeprefix(PETTINGZOO).partition(":")
    arguments: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, sign, value = pair.partition("=")
        if not sign:
            raise BadInput(f"{spec}: the argument {pair!r} has no value: write {pair}=VALUE")
        try:
            arguments[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key.strip()] = value
    return name, arguments


def import_environment(name: str) -> Any:
    """The module of an environment.

    Raises:
        BadInput: there is none, with what is there; a package that is not installed, with what to install.
    """
    package = name.partition(".")[0]
    try:
        holder = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise BadInput(f"{PETTINGZOO}{name} needs {error.name}: {INSTALL}") from error
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise BadInput(f"{PETTINGZOO}{name} needs {error.name}: pip install {error.name}") from error
        prefix = f"{name.rpartition('.')[0] or package}."
        with contextlib.suppress(ModuleNotFoundError):
            holder = importlib.import_module(prefix[:-1])
        found = [prefix + each.name for each in pkgutil.iter_modules(holder.__path__)]
        known = [each for each in found if not each.rpartition(".")[2].startswith("_")]
        raise BadInput(f"{package} has no {name.rpartition('.')[2]}: {did_you_mean(name, known)}") from error
    if not hasattr(module, "parallel_env"):
        raise BadInput(f"{name} has no parallel_env: its agents move in turns, as in games (alphazero, nfsp)")
    return module


def team_identity(spec: str) -> dict[str, Any]:
    """What is known of an environment, so that another one is not taken for it."""
    if spec.startswith(PREFIX):
        return describe(spec)
    name, arguments = read_spec(spec)
    package = name.partition(".")[0]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        package = f"{package} {importlib.metadata.version(package)}"
    team = make_team_envs(spec).team
    about = {name: list(value) for name, value in team._asdict().items()}  # as JSON gives it back
    return {"package": package, "arguments": arguments, **about}


class PettingZooEnvs:
    """Copies of a PettingZoo parallel environment, stepped one after the other."""

    def __init__(self, spec: str, module: Any, arguments: dict[str, Any]):
        self.spec, self.module, self.arguments = spec, module, arguments
        self.envs: list[Any] = [self._make()]
        self.team = _read_team(self.envs[0], spec)
        self.index = {agent: number for number, agent in enumerate(self.team.agents)}
        self.width = max(self.team.observation_sizes)

    def _make(self, **options: Any) -> Any:
        try:
            return self.module.parallel_env(**self.arguments, **options)
        except (TypeError, ValueError, AssertionError) as error:
            raise BadInput(f"{self.spec} cannot be made: {first_line(error)}") from error

    def reset(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        self.envs += [self._make() for _ in range(len(seeds) - len(self.envs))]
        self.live = self.envs[: len(seeds)]
        observations = [env.reset(seed=seed)[0] for env, seed in zip(self.live, seeds, strict=True)]
        return self._padded(observations), self._present()

    def step(self, action: Int64[Tensor, "episode agent"]) -> TeamStep:
        rows = []
        for env, choice in zip(self.live, action.tolist(), strict=True):
            if not env.agents:
                rows.append(({}, {}, {}, {}))
                continue
            rows.append(env.step({agent: choice[self.index[agent]] for agent in env.agents})[:4])
        observation, reward, terminated, truncated = zip(*rows, strict=True)
        return TeamStep(
            self._padded(observation),
            self._numbers(reward, torch.float32),
            self._numbers(terminated, torch.bool),
            self._numbers(truncated, torch.bool),
            self._present(),
        )

    def _padded(self, observations: Sequence[dict[str, Any]]) -> Tensor:
        padded = np.zeros((len(observations), len(self.index), self.width), dtype=np.float32)
        for row, observation in zip(padded, observations, strict=True):
            for agent, vector in observation.items():
                flat = np.asarray(vector, dtype=np.float32).ravel()
                row[self._number(agent), : len(flat)] = flat
        return torch.from_numpy(padded)

    def _numbers(self, values: Sequence[dict[str, Any]], dtype: torch.dtype) -> Tensor:
        table = torch.zeros(len(values), len(self.index), dtype=dtype)
        for row, each in zip(table, values, strict=True):
            for agent, value in each.items():
                row[self._number(agent)] = float(value)
        return table

    def _present(self) -> Tensor:
        table = torch.zeros(len(self.live), len(self.index), dtype=torch.bool)
        for row, env in zip(table, self.live, strict=True):
            for agent in env.agents:
                row[self._number(agent)] = True
        return table

    def _number(self, agent: str) -> int:
        if agent not in self.index:
            raise BadInput(
                f"{self.spec} has an agent {agent!r} that is not in its possible_agents "
                f"({', '.join(self.index)}): agents may come and go, but only those that are known before"
            )
        return self.index[agent]

    def render_one(self) -> Any:
        """An environment that can be rendered, in place of all others."""
        self.envs = [self._make(render_mode="rgb_array")]
        return self.envs[0]


def _read_team(env: Any, spec: str) -> Team:
    known = importlib.import_module("gymnasium").spaces
    agents = tuple(getattr(env, "possible_agents", ()))
    if not agents:
        raise BadInput(
            f"{spec} does not say who its possible_agents are, and a team's networks need to know: "
            "an environment with a fixed list of agents, such as mpe2's"
        )
    sizes, counts = [], []
    for agent in agents:
        observes, acts = env.observation_space(agent), env.action_space(agent)
        if not isinstance(acts, known.Discrete) or acts.start != 0:
            raise BadInput(f"{spec}: {agent} has the action space {acts}, and a team's actions are discrete")
        if not isinstance(observes, known.Box) or len(observes.shape) != 1:
            raise BadInput(
                f"{spec}: {agent} has observations of {observes}, and a team's networks take vectors"
            )
        sizes.append(int(observes.shape[0]))
        counts.append(int(acts.n))
    return Team(agents, tuple(sizes), tuple(counts))


class ParticleEnvs:
    """mpe2's scenarios as arrays; see `particle_envs`."""

    def __init__(self, scenario: Any):
        self.scenario = scenario
        self.team = Team(scenario.agents, scenario.observation_sizes, scenario.action_counts)

    def reset(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        self.steps = 0
        observation = torch.from_numpy(self.scenario.reset(seeds).astype(np.float32))
        return observation, torch.ones(observation.shape[:2], dtype=torch.bool)

    def step(self, action: Int64[Tensor, "episode agent"]) -> TeamStep:
        observation, reward = self.scenario.step(action.numpy())
        self.steps += 1
        shape, is_over = reward.shape, self.steps >= EPISODE_STEPS
        return TeamStep(
            torch.from_numpy(observation.astype(np.float32)),
            torch.from_numpy(reward.astype(np.float32)),
            torch.zeros(shape, dtype=torch.bool),
            torch.full(shape, is_over),
            torch.full(shape, not is_over),
        )


class MatrixEnvs:
    """Two players choose at once, and the episode ends; in `matrix:two_step` after a second choice, in the
    one or the other matrix as player 1 chose. Both see the state, one-hot."""

    def __init__(self, spec: str):
        self.name = spec.removeprefix(PREFIX)
        if self.name != "two_step" and self.name not in PAYOFFS:
            known = [PREFIX + each for each in ("two_step", *PAYOFFS)]
            raise BadInput(f"no game {spec!r}: {did_you_mean(spec, known, known)}")
        self.is_two_step = self.name == "two_step"
        self.payoff = torch.tensor(TWO_STEP if self.is_two_step else PAYOFFS[self.name])
        count, states = self.payoff.shape[1], 3 if self.is_two_step else 1
        self.num_states = states
        self.team = Team(("player_1", "player_2"), (states, states), (count, count))

    def reset(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        self.state = torch.zeros(len(seeds), dtype=torch.long)
        return self._observe(), torch.ones(len(seeds), 2, dtype=torch.bool)

    def step(self, action: Int64[Tensor, "episode agent"]) -> TeamStep:
        first, second = action.unbind(1)
        is_last = not self.is_two_step or bool(self.state[0] > 0)  # all episodes are as far
        if not self.is_two_step:
            reward = self.payoff[:, first, second].T.contiguous()
        elif is_last:  # the team's payoff, half of it for each player
            reward = self.payoff[self.state - 1, first, second][:, None].expand(-1, 2) / 2
        else:
            self.state, reward = 1 + first, torch.zeros(len(first), 2)
        over = torch.full((len(first), 2), is_last)
        return TeamStep(self._observe(), reward, over, torch.zeros_like(over), ~over)

    def _observe(self) -> Tensor:
        one_hot = torch.nn.functional.one_hot(self.state, self.num_states).float()
        return one_hot[:, None].expand(-1, 2, -1)
