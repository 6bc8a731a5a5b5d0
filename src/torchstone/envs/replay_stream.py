"""Experience replayed: some steps in the worlds, then rows drawn out of all that is remembered."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.envs.replay_buffer import Replay, Rows
from torchstone.envs.vector_env import Worlds
from torchstone.parts.rl.q_learning import importance
from torchstone.parts.rl.sum_tree import SumTree
from torchstone.parts.seeding import SeedStream, derive_seed


class Priorities:
    """Chances P(i) = p_i^α / Σ p^α, p being how wrong a row was found last (Schaul et al. 2016,
    arXiv:1511.05952, section 3.3); a new row is as likely as the likeliest so far.

    Args:
        rows: of the memory.
        beta: fraction of the run -> β of the weights that make up for it.
    """

    def __init__(self, rows: int, alpha: float, epsilon: float = 1e-6):
        self.tree, self.alpha, self.epsilon, self.largest = SumTree(rows), alpha, epsilon, 1.0

    def add(self, rows: Int64[Tensor, " n"]) -> None:
        self.tree.set(rows.cpu(), self.largest)

    def drop(self, rows: Int64[Tensor, " n"]) -> None:
        self.tree.set(rows.cpu(), 0.0)

    def judge(self, rows: Int64[Tensor, " n"], error: Float[Tensor, " n"]) -> None:
        """These rows were found to be wrong by so much."""
        rows = rows.cpu()
        weight = (error.detach().abs().cpu().double() + self.epsilon) ** self.alpha
        self.largest = max(self.largest, weight.max().item())
        # a row may have been dropped since it was drawn
        self.tree.set(rows, torch.where(self.tree.get(rows) > 0, weight, 0.0))

    def state_dict(self) -> dict[str, Any]:
        return {**self.tree.state_dict(), "largest": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tree.load_state_dict(state)
        self.largest = state["largest"]


class Drawn(NamedTuple):
    """Minibatches, one after the other in the rows, and what was lived through before they were drawn."""

    rows: Rows
    weight: Float[Tensor, " batch"] | None  # of each row's loss; all 1 if None
    index: Int64[Tensor, " batch"]  # where in the memory
    returns: list[float]  # of the episodes that ended
    number: int  # draws before this one
    frames: int  # steps of all worlds so far


class Experience:
    """Endless `Drawn`s: `length` steps of each world, then `count` rows out of the memory.

    The first time it plays until `first` steps are remembered. What is drawn, strayed and acted follows
    from the seed and how many draws there were.

    Args:
        explorer: of `parts.exploration`; it acts by the network that the update changes.
        scale: actions as they are remembered -> as the worlds take them.
        priorities: how to draw other than evenly, and β by number of the draw.
    """

    def __init__(
        self,
        explorer: Any,
        worlds: Worlds,
        memory: Replay,
        *,
        length: int,
        count: int,
        first: int,
        gamma: float,
        n: int = 1,
        clip: bool = False,
        scale: Any = None,
        priorities: Priorities | None = None,
        beta: Any = None,
        seed: int,
    ):
        self.explorer, self.worlds, self.memory, self.priorities = (
            explorer, worlds, memory, priorities,
        )  # fmt: skip
        self.length, self.count, self.gamma, self.n, self.clip = length, count, gamma, n, clip
        self.first, self.scale, self.beta, self.seed = first, scale, beta, seed
        self.position, self.frames = 0, 0

    def __iter__(self) -> "Experience":
        return self

    @torch.no_grad()
    def __next__(self) -> Drawn:
        returns: list[float] = []
        stray = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.EXPLORATION, self.position))
        while not self.position and self.frames < self.first:
            left = -(-(self.first - self.frames) // self.worlds.count)
            self._live(min(self.length, left), stray, returns)
        self._live(self.length, stray, returns)
        draw = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.REPLAY_DRAWS, self.position))
        index, weight = self._draw(draw)
        self.position += 1
        rows = self.memory.rows(index, self.gamma, self.n)
        return Drawn(rows, weight, index, returns, self.position - 1, self.frames)

    def _live(self, length: int, generator: torch.Generator, returns: list[float]) -> None:
        worlds, explorer, memory = self.worlds, self.explorer, self.memory
        explorer.begin(length, worlds.count, self.frames, generator)
        seen, chosen, steps, cuts = [], [], [], []
        for t in range(length):
            observation = worlds.observation
            action = explorer.act(t, observation)
            step = worlds.step(action if self.scale is None else self.scale(action))
            seen.append(observation)
            chosen.append(action)
            steps.append(step[1:4])
            if step.returns or step.observation is not worlds.observation:  # some episode ended
                returns += step.returns
                explorer.end(step.terminated | step.truncated)
                cuts.append(step.observation[step.truncated & ~step.terminated])
        reward, terminated, truncated = map(torch.stack, zip(*steps, strict=True))
        rows = memory.add(
            torch.stack(seen),
            torch.stack(chosen),
            reward.sign() if self.clip else reward,
            terminated,
            truncated,
            worlds.observation,
            torch.cat(cuts) if cuts else seen[0][:0],
        )
        self.frames += length * worlds.count
        if self.priorities is not None:
            self.priorities.add(rows)
            count = min((length + 1) * worlds.count, memory.total - len(memory))
            # what can no longer be drawn: from the row to be written next up to the oldest
            self.priorities.drop((memory.oldest - 1 - torch.arange(count)) % memory.total)

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        if self.priorities is None:
            chosen = torch.randint(len(self.memory), (self.count,), generator=generator)
            return (self.memory.oldest + chosen) % self.memory.total, None
        tree = self.priorities.tree
        index = tree.draw(self.count, generator)
        # the strata are in order of age: minibatches are not to be
        index = index[torch.randperm(self.count, generator=generator)]
        chance = tree.get(index) / tree.total
        weight = importance(chance, len(self.memory), self.beta(self.position))
        return index, weight.to(self.memory.device)

    @property
    def exact(self) -> bool:
        """Whether a state put back goes on bit for bit."""
        return self.worlds.exact

    def state_dict(self) -> dict[str, Any]:
        parts = {"worlds": self.worlds, "memory": self.memory, "explorer": self.explorer}
        if self.priorities is not None:
            parts["priorities"] = self.priorities
        state = {name: part.state_dict() for name, part in parts.items()}
        return {**state, "position": self.position, "frames": self.frames}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.frames = state["position"], state["frames"]
        self.worlds.load_state_dict(state["worlds"])
        self.memory.load_state_dict(state["memory"])
        self.explorer.load_state_dict(state["explorer"])
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        if not self.worlds.exact:  # new episodes have begun
            self.memory.sever()
            self.explorer.end(torch.ones(self.worlds.count, dtype=torch.bool))
