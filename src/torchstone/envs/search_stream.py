"""Experience of an agent that searches in a model which it has learned: MuZero's stream.

A `SearchStream` steps envs by the actions that a search visits most, and keeps what happened: observations,
actions, rewards, the search's policies and values. Each of its batches samples positions with the steps that
follow them, for a model that is unrolled over those steps. Old positions are searched again with the newest
network (reanalyse), which renews their policies and values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.envs.board_games import Symmetries
from torchstone.envs.vector_env import EnvStep
from torchstone.parts.rl import mcts
from torchstone.parts.rl.value_support import n_step_targets
from torchstone.parts.seeding import SeedStream, derive_generator


class UnrolledBatch(NamedTuple):
    """Positions, and K steps from each: the minibatches of one update, one after the other in the rows."""

    observation: Float[Tensor, "batch *shape"]  # of the first position
    action: Int64[Tensor, "batch K"]  # what was done; beyond an episode's end, something
    reward: Float[Tensor, "batch K"]  # of those actions; 0 beyond the end
    value: Float[Tensor, "batch K+1"]  # n-step targets; 0 beyond the end
    policy: Float[Tensor, "batch K+1 action"]  # shares of the search's visits
    is_live: Bool[Tensor, "batch K+1"]  # whether the episode goes on: beyond its end there is no policy
    is_known: Bool[Tensor, "batch K+1"]  # False beyond a time limit, where nothing is known
    returns: list[float]  # of the episodes that ended before this batch
    number: int  # batches before this one
    env_steps: int  # steps of all envs so far


@dataclass(frozen=True)
class SearchStreamConfig:
    """What a `SearchStream` does per batch."""

    num_steps: int  # steps per env before each batch
    sample_size: int  # positions per batch, in all its minibatches
    learning_starts: int  # env steps before the first batch
    buffer_size: int  # steps that are kept
    unroll_steps: int  # K
    n_step: int  # steps of reward in a value target
    gamma: float  # discount γ
    reanalyse: int  # positions that are searched again before each batch


class GameEnvs:
    """A board game as envs, each a game in which the same agent moves for both players.

    A reward is in the view of the player who moves. `sign` is -1: the other player moves next.

    Raises:
        ValueError: a player moves twice in a row, which no model without rules can know.
    """

    is_exact, sign = True, -1.0

    def __init__(self, game: Any, num_envs: int):
        self.game, self.num_envs = game, num_envs
        self.state = game.initial(num_envs)

    @property
    def observation(self) -> Float[Tensor, "envs *shape"]:
        return self.game.observe(self.state)

    @property
    def action_mask(self) -> Bool[Tensor, "envs action"]:
        return self.game.legal_actions(self.state)

    def step(self, actions: Int64[Tensor, " envs"]) -> EnvStep:
        game, player = self.game, self.game.player(self.state)
        after = game.step(self.state, actions)
        done, outcome = game.outcome(after)
        if bool(((game.player(after) == player) & ~done).any()):
            raise ValueError(
                f"{game.name}: a player moves twice in a row, and a learned model knows of turns alone"
            )
        reward = outcome.gather(1, player[:, None])[:, 0]
        next_observation = game.observe(after)
        self.state = after
        if done.any():
            self.state[done] = game.initial(int(done.sum()))
        game.retain(self.state)
        return EnvStep(next_observation, reward, done, torch.zeros_like(done), outcome[done, 0].tolist())

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state, "game": self.game.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.game.load_state_dict(state["game"])
        self.state = state["state"].clone()


class StepBuffer:
    """The last steps of each env, oldest overwritten first: rows `[slot, env]`, so that a column holds one
    episode after another."""

    COLUMNS = (
        "observation",
        "legal",
        "action",
        "reward",
        "discount",
        "is_truncated",
        "bootstrap",
        "policy",
        "value",
    )

    def __init__(self, num_slots: int, num_envs: int, observation: Tensor, num_actions: int):
        rows = num_slots, num_envs
        self.observation = torch.zeros(*rows, *observation.shape[1:], dtype=observation.dtype)
        self.legal = torch.ones(*rows, num_actions, dtype=torch.bool)
        self.action = torch.zeros(rows, dtype=torch.int64)
        self.reward, self.discount, self.value = torch.zeros(rows), torch.zeros(rows), torch.zeros(rows)
        self.is_truncated = torch.zeros(rows, dtype=torch.bool)
        self.bootstrap = torch.zeros(rows)  # γ v of the state in which a time limit cut the episode
        self.policy = torch.zeros(*rows, num_actions)
        self.num_slots, self.num_written = num_slots, 0

    def add(self, **columns: Tensor) -> None:
        """One step of each env."""
        slot = self.num_written % self.num_slots
        for name, value in columns.items():
            getattr(self, name)[slot] = value
        self.num_written += 1

    def __len__(self) -> int:
        """Slots that hold a step."""
        return min(self.num_written, self.num_slots)

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in self.COLUMNS)

    def slots(self, offset: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Of steps counted from the oldest one."""
        return (self.num_written - len(self) + offset) % self.num_slots

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.COLUMNS} | {"num_written": self.num_written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self.COLUMNS:
            getattr(self, name).copy_(state[name])
        self.num_written = state["num_written"]


def transform(
    symmetries: Symmetries,
    observation: Float[Tensor, "batch plane row column"],
    action: Int64[Tensor, "batch K"],
    policy: Float[Tensor, "batch K+1 action"],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each position, with the moves that follow it, as one of its images under the symmetries of the board,
    each as likely."""
    if len(symmetries.cells) == 1:
        return observation, action, policy
    which = symmetries.draw(len(action), generator)
    moves = symmetries.actions[which]
    # a policy is read at the action that an image's action stands for, and an action is written as its image
    action, policy = moves.argsort(1).gather(1, action), policy.gather(2, moves[:, None].expand_as(policy))
    return symmetries.images(observation, which), action, policy


class SearchStream:
    """Endless `UnrolledBatch`es: steps in the envs, old positions searched again, then positions sampled.

    Before the first batch it acts at random until the buffer holds `learning_starts` steps. Noise, actions
    and samples follow from the seed and the numbers of steps and batches so far.

    Args:
        envs: a `VectorEnv`, or `GameEnvs`.
        search: observations, legal actions, generator of the noise at the roots -> trees.
        value: observations -> the network's values.
        temperature: env steps so far -> temperature of the actions.
    """

    def __init__(
        self,
        envs: Any,
        search: Callable[[Tensor, Tensor, torch.Generator], mcts.Tree],
        value: Callable[[Tensor], Tensor],
        temperature: Callable[[int], float],
        num_actions: int,
        config: SearchStreamConfig,
        *,
        seed: int,
    ):
        self.envs, self.search, self.value, self.temperature = envs, search, value, temperature
        self.config, self.seed = config, seed
        num_slots = config.buffer_size // envs.num_envs
        self.buffer = StepBuffer(num_slots, envs.num_envs, envs.observation, num_actions)
        self.position, self.env_steps = 0, 0

    @property
    def is_exact(self) -> bool:
        """Whether a restored state continues bit for bit."""
        return self.envs.is_exact

    @property
    def horizon(self) -> int:
        """Steps after a position that its targets need."""
        return self.config.unroll_steps + self.config.n_step

    def __iter__(self) -> "SearchStream":
        return self

    @torch.no_grad()
    def __next__(self) -> UnrolledBatch:
        config = self.config
        returns: list[float] = []
        while not self.position and (
            self.env_steps < config.learning_starts or len(self.buffer) <= self.horizon
        ):
            self._step(returns)
        for _ in range(config.num_steps):
            self._step(returns)
        generator = derive_generator(self.seed, SeedStream.REPLAY_DRAWS, self.position)
        if config.reanalyse:
            self._reanalyse(generator)
        self.position += 1
        return self._sample(generator, returns)

    def _legal(self) -> Bool[Tensor, "envs action"]:
        mask = self.envs.action_mask
        return torch.ones_like(self.buffer.legal[0]) if mask is None else mask

    def _step(self, returns: list[float]) -> None:
        """One step of every env."""
        envs, gamma = self.envs, self.config.gamma
        generator = derive_generator(self.seed, SeedStream.SELF_PLAY, self.env_steps)
        observation, legal = envs.observation, self._legal()
        if self.env_steps < self.config.learning_starts:
            # an untrained model would prefer some action everywhere, and learn from its own preference
            visits, value = legal.float(), self.value(observation).cpu()
        else:
            tree = self.search(observation, legal, generator)
            visits, value = tree.root_visits.cpu(), tree.root_value.cpu()
        action = mcts.sample_action(visits, self.temperature(self.env_steps), generator)
        observation = observation.clone()
        step = envs.step(action)
        discount = torch.full_like(step.reward, gamma) * getattr(envs, "sign", 1.0)
        done, is_truncated = step.terminated | step.truncated, step.truncated & ~step.terminated
        bootstrap = torch.zeros_like(step.reward)
        if is_truncated.any():
            bootstrap[is_truncated] = gamma * self.value(step.next_observation[is_truncated]).cpu()
        self.buffer.add(
            observation=observation,
            legal=legal,
            action=action,
            reward=step.reward,
            discount=discount.masked_fill(done, 0.0),
            is_truncated=is_truncated,
            bootstrap=bootstrap,
            policy=mcts.visit_policy(visits),
            value=value,
        )
        self.env_steps += envs.num_envs
        returns += step.returns

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions whose following steps are known: offsets from the oldest slot, and envs."""
        offset = torch.randint(len(self.buffer) - self.horizon, (count,), generator=generator)
        return offset, torch.randint(self.envs.num_envs, (count,), generator=generator)

    def _reanalyse(self, generator: torch.Generator) -> None:
        """Search from positions of the past, with the newest network."""
        buffer = self.buffer
        offset = torch.randint(len(buffer), (self.config.reanalyse,), generator=generator)
        env = torch.randint(self.envs.num_envs, (self.config.reanalyse,), generator=generator)
        slot = buffer.slots(offset)
        tree = self.search(buffer.observation[slot, env], buffer.legal[slot, env], generator)
        buffer.policy[slot, env] = mcts.visit_policy(tree.root_visits.cpu())
        buffer.value[slot, env] = tree.root_value.cpu()

    def _sample(self, generator: torch.Generator, returns: list[float]) -> UnrolledBatch:
        config, buffer = self.config, self.buffer
        offset, env = self._draw(config.sample_size, generator)
        k, count = config.unroll_steps, self.horizon
        slots = buffer.slots(offset + torch.arange(count + 1)[:, None])  # [step, row]
        steps, unrolled = slots[:count], slots[: k + 1]
        reward, discount = buffer.reward[steps, env], buffer.discount[steps, env]
        value, is_beyond = n_step_targets(
            reward + buffer.bootstrap[steps, env], discount, buffer.value[slots, env], config.n_step
        )
        observation, action = buffer.observation[slots[0], env].float(), buffer.action[unrolled[:k], env].T
        policy = buffer.policy[unrolled, env].transpose(0, 1)
        if isinstance(self.envs, GameEnvs):
            symmetries = self.envs.game.symmetries
            observation, action, policy = transform(symmetries, observation, action, policy, generator)
        cut = buffer.is_truncated[unrolled, env]
        is_cut = torch.zeros_like(cut)
        is_cut[1:] = cut[:-1].cummax(0).values
        return UnrolledBatch(
            observation=observation,
            action=action,
            reward=reward[:k].masked_fill(is_beyond[:k], 0).T,
            value=value.T,
            policy=policy,
            is_live=~is_beyond.T,
            is_known=~is_cut.T,
            returns=returns,
            number=self.position - 1,
            env_steps=self.env_steps,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "envs": self.envs.state_dict(),
            "buffer": self.buffer.state_dict(),
            "position": self.position,
            "env_steps": self.env_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.envs.load_state_dict(state["envs"])
        self.buffer.load_state_dict(state["buffer"])
        self.position, self.env_steps = state["position"], state["env_steps"]
        if not self.envs.is_exact:  # new episodes have begun: the last steps lead nowhere
            last = (self.buffer.num_written - 1) % self.buffer.num_slots
            self.buffer.discount[last], self.buffer.is_truncated[last] = 0.0, True
            self.buffer.bootstrap[last] = self.config.gamma * self.buffer.value[last]
