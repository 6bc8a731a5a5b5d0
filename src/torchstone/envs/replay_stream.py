"""Off-policy experience: steps in the envs, then batches sampled from the replay buffer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.envs.hindsight import HindsightReplay
from torchstone.envs.replay_buffer import ReplayBuffer, Transitions
from torchstone.envs.vector_env import VectorEnv
from torchstone.parts.old_keys import with_new_names
from torchstone.parts.rl.q_learning import importance_weights
from torchstone.parts.rl.sum_tree import SumTree
from torchstone.parts.seeding import SeedStream, derive_seed


class PrioritizedSampler:
    """Prioritized replay: P(i) = p_i^α / Σ p^α, p being a row's last TD error (Schaul et al. 2016,
    arXiv:1511.05952, section 3.3). A new row gets the largest priority so far.

    Args:
        num_rows: of the replay buffer.
        beta: number of the batch -> exponent β of the importance weights.
    """

    def __init__(self, num_rows: int, alpha: float, beta: Callable[[int], float], epsilon: float = 1e-6):
        self.tree, self.alpha, self.beta = SumTree(num_rows), alpha, beta
        self.epsilon, self.largest = epsilon, 1.0

    def add(self, rows: Int64[Tensor, " n"]) -> None:
        self.tree.set(rows.cpu(), self.largest)

    def drop(self, rows: Int64[Tensor, " n"]) -> None:
        self.tree.set(rows.cpu(), 0.0)

    def update_priorities(self, rows: Int64[Tensor, " n"], td_error: Float[Tensor, " n"]) -> None:
        """Set the priorities of these rows by their TD errors."""
        rows = rows.cpu()
        weight = (td_error.detach().abs().cpu().double() + self.epsilon) ** self.alpha
        self.largest = max(self.largest, weight.max().item())
        # a row may have been dropped since it was sampled
        self.tree.set(rows, torch.where(self.tree.get(rows) > 0, weight, 0.0))

    def state_dict(self) -> dict[str, Any]:
        return {**self.tree.state_dict(), "largest": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tree.load_state_dict(state)
        self.largest = state["largest"]


class ReplayBatch(NamedTuple):
    """The minibatches of one update, one after the other in the rows, and the steps taken before them."""

    transitions: Transitions
    weight: Float[Tensor, " batch"] | None  # importance weight of each row's loss; None for all 1
    index: Int64[Tensor, " batch"]  # rows of the replay buffer
    returns: list[float]  # of the episodes that ended
    number: int  # batches before this one
    env_steps: int  # steps of all envs so far


@dataclass(frozen=True)
class ReplayConfig:
    """What a `ReplayStream` does per batch."""

    num_steps: int  # steps per env before each batch
    sample_size: int  # transitions per batch, in all its minibatches
    learning_starts: int  # env steps before the first batch
    gamma: float  # discount γ
    n_step: int = 1  # steps of reward in a transition
    clip_rewards: bool = False  # store the sign of rewards


class ReplayStream:
    """Endless `ReplayBatch`es: `num_steps` steps of each env, then `sample_size` transitions.

    Before the first batch it acts until the buffer holds `learning_starts` steps. Samples, exploration and
    actions follow from the seed and the number of batches so far.

    Args:
        explorer: of `parts.rl.exploration`; it acts by the network that the update changes.
        action_scale: actions as they are stored -> as the envs take them.
        sampler: for prioritized rather than uniform sampling.
        hindsight: to relabel the goals of what was sampled.
    """

    def __init__(
        self,
        explorer: Any,
        envs: VectorEnv,
        buffer: ReplayBuffer,
        config: ReplayConfig,
        *,
        action_scale: Callable[[Tensor], Tensor] | None = None,
        sampler: PrioritizedSampler | None = None,
        hindsight: HindsightReplay | None = None,
        seed: int,
    ):
        self.explorer, self.envs, self.buffer, self.config = explorer, envs, buffer, config
        self.action_scale, self.sampler, self.seed = action_scale, sampler, seed
        self.hindsight = hindsight
        self.position, self.env_steps = 0, 0

    def attach(self, folder: Path | None) -> None:
        """Let the replay buffer save large contents in the run folder."""
        self.buffer.attach(folder)

    def __iter__(self) -> "ReplayStream":
        return self

    @torch.no_grad()
    def __next__(self) -> ReplayBatch:
        config = self.config
        returns: list[float] = []
        exploration_seed = derive_seed(self.seed, SeedStream.EXPLORATION, self.position)
        generator = torch.Generator().manual_seed(exploration_seed)
        while not self.position and self.env_steps < config.learning_starts:
            remaining = -(-(config.learning_starts - self.env_steps) // self.envs.num_envs)
            self._collect(min(config.num_steps, remaining), generator, returns)
        self._collect(config.num_steps, generator, returns)
        sampling_seed = derive_seed(self.seed, SeedStream.REPLAY_DRAWS, self.position)
        generator = torch.Generator().manual_seed(sampling_seed)
        index, weight = self._sample(generator)
        self.position += 1
        transitions = self.buffer.sample_at(index, config.gamma, config.n_step)
        if self.hindsight is not None:
            transitions = self.hindsight(index.to(self.buffer.device), transitions, generator)
        return ReplayBatch(transitions, weight, index, returns, self.position - 1, self.env_steps)

    def _collect(self, num_steps: int, generator: torch.Generator, returns: list[float]) -> None:
        envs, explorer, buffer = self.envs, self.explorer, self.buffer
        explorer.sample_noise(num_steps, envs.num_envs, self.env_steps, generator)
        observations, actions, steps, final_observations = [], [], [], []
        for t in range(num_steps):
            observation = envs.observation
            action = explorer.act(t, observation)
            step = envs.step(action if self.action_scale is None else self.action_scale(action))
            observations.append(observation)
            actions.append(action)
            steps.append(step[1:4])
            if step.returns or step.next_observation is not envs.observation:  # some episode ended
                returns += step.returns
                explorer.reset_done(step.terminated | step.truncated)
                is_final = step.truncated & ~step.terminated
                if buffer.keep_terminal:
                    is_final = step.truncated | step.terminated
                final_observations.append(step.next_observation[is_final])
        reward, terminated, truncated = map(torch.stack, zip(*steps, strict=True))
        rows = buffer.add(
            torch.stack(observations),
            torch.stack(actions),
            reward.sign() if self.config.clip_rewards else reward,
            terminated,
            truncated,
            envs.observation,
            torch.cat(final_observations) if final_observations else observations[0][:0],
        )
        self.env_steps += num_steps * envs.num_envs
        if self.sampler is not None:
            self.sampler.add(rows)
            count = min((num_steps + 1) * envs.num_envs, buffer.num_rows - len(buffer))
            # rows that can no longer be sampled: from the one to be written next up to the oldest
            self.sampler.drop((buffer.oldest - 1 - torch.arange(count)) % buffer.num_rows)

    def _sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        buffer, count = self.buffer, self.config.sample_size
        if self.sampler is None:
            offset = torch.randint(len(buffer), (count,), generator=generator)
            return (buffer.oldest + offset) % buffer.num_rows, None
        tree = self.sampler.tree
        index = tree.sample(count, generator)
        # the strata are in order of age, which minibatches should not be
        index = index[torch.randperm(count, generator=generator)]
        probability = tree.get(index) / tree.total
        weight = importance_weights(probability, len(buffer), self.sampler.beta(self.position))
        return index, weight.to(buffer.device)

    @property
    def is_exact(self) -> bool:
        """Whether a restored state continues bit for bit."""
        return self.envs.is_exact

    def state_dict(self) -> dict[str, Any]:
        parts = {"envs": self.envs, "buffer": self.buffer, "explorer": self.explorer}
        if self.sampler is not None:
            parts["sampler"] = self.sampler
        state = {name: part.state_dict() for name, part in parts.items()}
        return {**state, "position": self.position, "env_steps": self.env_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = with_new_names(
            state, {"worlds": "envs", "memory": "buffer", "priorities": "sampler", "frames": "env_steps"}
        )
        self.position, self.env_steps = state["position"], state["env_steps"]
        self.envs.load_state_dict(state["envs"])
        self.buffer.load_state_dict(state["buffer"])
        self.explorer.load_state_dict(state["explorer"])
        if self.sampler is not None:
            self.sampler.load_state_dict(state["sampler"])
        if not self.envs.is_exact:  # new episodes have begun
            self.buffer.mark_reset()
            self.explorer.reset_done(torch.ones(self.envs.num_envs, dtype=torch.bool))
