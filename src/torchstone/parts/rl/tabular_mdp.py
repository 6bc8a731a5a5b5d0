"""Markov decision processes whose tables are known: exact values, the optimum, and episodes without a
simulator (Puterman 1994, sections 4.2 and 6.3; Bertsekas and Tsitsiklis 1991 for the undiscounted case)."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

Policy = Float64[Tensor, "states actions"]


@dataclass(frozen=True)
class TabularMDP:
    """Transitions of positive probability, one a row, sorted by state, then action.

    Args:
        start: probability of each state to begin in.
        is_terminal: states in which an episode is over; rows that leave them are ignored.
        is_admissible: actions that an agent may choose; at least one in each state.
    """

    state: Int64[Tensor, " rows"]
    action: Int64[Tensor, " rows"]
    next_state: Int64[Tensor, " rows"]
    probability: Float64[Tensor, " rows"]
    reward: Float64[Tensor, " rows"]
    start: Float64[Tensor, " states"]
    is_terminal: Bool[Tensor, " states"]
    is_admissible: Bool[Tensor, "states actions"]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of states and of actions."""
        return self.is_admissible.shape[0], self.is_admissible.shape[1]

    @cached_property
    def cell(self) -> Int64[Tensor, " rows"]:
        """state · actions + action of each row."""
        return self.state * self.shape[1] + self.action

    @cached_property
    def expected_reward(self) -> Policy:
        """E[r | s, a]; 0 in terminal states."""
        return self._expect(self.reward)

    def _expect(self, outcome: Float64[Tensor, " rows"]) -> Policy:
        """The mean outcome of each state and action; 0 in terminal states."""
        cells = torch.zeros(self.is_admissible.numel(), dtype=torch.double)
        mean = cells.index_add(0, self.cell, self.probability * outcome).view(self.shape)
        return mean.masked_fill(self.is_terminal[:, None], 0.0)

    @cached_property
    def _transition(self) -> Tensor:
        """P(s' | s, a) as a sparse matrix `(cells, states)`, empty in the rows of terminal states."""
        leaves = ~self.is_terminal[self.state]
        cell = self.cell[leaves]
        count = torch.bincount(cell, minlength=self.is_admissible.numel())
        first = torch.cat([torch.zeros(1, dtype=torch.long), count.cumsum(0)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls this layout a beta
            return torch.sparse_csr_tensor(
                first, self.next_state[leaves], self.probability[leaves], (len(count), self.shape[0])
            )

    def q_values(self, value: Float64[Tensor, " states"], gamma: float = 1.0) -> Policy:
        """E[r + γ V(s') | s, a], with V of terminal states taken as 0."""
        value = value.masked_fill(self.is_terminal, 0.0)
        return self.expected_reward + gamma * (self._transition @ value).view(self.shape)

    def uniform_policy(self) -> Policy:
        """All actions as likely, admissible or not."""
        return torch.full(self.shape, 1 / self.shape[1], dtype=torch.double)

    def deterministic_policy(self, action: Int64[Tensor, " states"]) -> Policy:
        return torch.nn.functional.one_hot(action, self.shape[1]).double()

    def state_values(self, policy: Policy, gamma: float = 1.0) -> Float64[Tensor, " states"]:
        """V of a policy: the solution of V = r + γ P V on the states that are not terminal.

        With γ = 1 the policy must reach a terminal state from everywhere. Rows of terminal states are not
        read: they need not sum to 1.
        """
        states = self.shape[0]
        chance = self.probability * policy.flatten()[self.cell]
        step = torch.zeros(states * states, dtype=torch.double)
        step = step.index_add(0, self.state * states + self.next_state, chance).view(states, states)
        reward = (policy * self.expected_reward).sum(1)
        on = (~self.is_terminal).nonzero()[:, 0]
        system = torch.eye(len(on), dtype=torch.double) - gamma * step[on][:, on]
        value = torch.zeros(states, dtype=torch.double)
        value[on] = torch.linalg.solve(system, reward[on])
        return value

    def expected_return(self, policy: Policy, gamma: float = 1.0) -> float:
        """The mean return of episodes that begin as `start` says."""
        return float(self.start @ self.state_values(policy, gamma))

    def value_iteration(
        self, gamma: float = 1.0, tolerance: float = 1e-10, sweeps: int = 10_000
    ) -> tuple[Float64[Tensor, " states"], Int64[Tensor, " states"]]:
        """V* and a greedy policy over admissible actions: V ← max_a E[r + γ V(s')] until it stands still.

        Raises:
            RuntimeError: it does not within `sweeps`.
        """
        value = torch.zeros(self.shape[0], dtype=torch.double)
        for _ in range(sweeps):
            q = self.q_values(value, gamma).masked_fill(~self.is_admissible, -torch.inf)
            best = q.max(1)
            if (best.values - value).abs().max() < tolerance:
                return best.values, best.indices
            value = best.values
        raise RuntimeError(f"values still change by more than {tolerance} after {sweeps} sweeps")

    @cached_property
    def _cumulative(self) -> tuple[Float64[Tensor, " rows"], Int64[Tensor, " cells"]]:
        """Row by row the cell's number plus the cumulative probability within it, and each cell's last row:
        one sorted list serves all draws."""
        total = self.probability.cumsum(0)
        count = torch.bincount(self.cell, minlength=self.is_admissible.numel())
        last = count.cumsum(0) - 1
        before = torch.where(last >= count, total[(last - count).clamp(min=0)], 0.0)
        within = total - before[self.cell]
        return self.cell + within / within[last.clamp(min=0)][self.cell], last

    def sample_next(
        self,
        state: Int64[Tensor, " batch"],
        action: Int64[Tensor, " batch"],
        uniform: Float64[Tensor, " batch"],
    ) -> tuple[Int64[Tensor, " batch"], Float64[Tensor, " batch"]]:
        """Next states and rewards by inversion of uniform numbers from 0 to 1."""
        cumulative, last = self._cumulative
        cell = state * self.shape[1] + action
        row = torch.searchsorted(cumulative, cell + uniform, right=True).minimum(last[cell])
        return self.next_state[row], self.reward[row]


@dataclass(frozen=True)
class Episodes:
    """Episodes of one behavior policy, padded behind their ends."""

    state: Int64[Tensor, "episodes time"]
    action: Int64[Tensor, "episodes time"]
    reward: Float64[Tensor, "episodes time"]
    is_on: Bool[Tensor, "episodes time"]  # false behind the end

    @property
    def returns(self) -> Float64[Tensor, " episodes"]:
        """Undiscounted."""
        return self.reward.sum(1)


def sample_episodes(
    mdp: TabularMDP, policy: Policy, episodes: int, generator: torch.Generator, max_steps: int = 500
) -> Episodes:
    """Episodes under a policy, all at once, cut after `max_steps`."""
    choose = policy.cumsum(1)
    choose = choose / choose[:, -1:].clamp(min=1e-300)

    def uniform() -> Float64[Tensor, " episodes"]:
        return torch.rand(episodes, generator=generator, dtype=torch.double)

    state = torch.searchsorted(mdp.start.cumsum(0) / mdp.start.sum(), uniform(), right=True)
    columns, is_on = [], torch.ones(episodes, dtype=torch.bool)
    while len(columns) < max_steps:
        is_on = is_on & ~mdp.is_terminal[state]
        if not is_on.any():
            break
        action = torch.searchsorted(choose[state], uniform()[:, None], right=True)[:, 0]
        action = action.clamp(max=mdp.shape[1] - 1)
        following, reward = mdp.sample_next(state, action, uniform())
        columns.append((state, action, reward * is_on, is_on))
        state = torch.where(is_on, following, state)
    return Episodes(*(torch.stack(column, 1) for column in zip(*columns, strict=True)))
