"""Replay buffer (Lin 1992): past transitions in a ring on the device, to sample from.

An observation is stored once, not as the next observation of one step and again as the observation of the
following one; of stacked frames only the newest, since the others are in the rows before. What a ring of
rows cannot hold is stored in `SparseRows`: the final observation of an episode that a time limit cut (the
row after it belongs to the next episode), and the older frames of an episode's first stack.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.envs.disk_buffer import SPILL_BYTES, DiskBuffer
from torchstone.errors import BadInput
from torchstone.parts.old_keys import with_new_names

RUNNING, TERMINATED, TRUNCATED = 0, 1, 2  # how the episode stands after a step


class Transitions(NamedTuple):
    """Sampled n-step transitions: what an n-step target is made of."""

    observation: Tensor  # (batch, *shape)
    action: Tensor  # (batch,) int64, or (batch, action_dim) float32
    reward: Float[Tensor, " batch"]  # Σ_{k<m} γ^k r_{t+k}, m ≤ n: fewer where the episode ended before
    # (batch, *shape), the state m steps later; meaningless where discount is 0, unless terminal ones are kept
    next_observation: Tensor
    discount: Float[Tensor, " batch"]  # γ^m, and 0 where the episode terminated


class SparseRows:
    """Tensors of one shape for a few of a ring's rows."""

    def __init__(self, rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: Any):
        self.slot_of_row = torch.full((rows,), -1, dtype=torch.int32, device=device)
        self.items = torch.empty((0, *shape), dtype=dtype, device=device)
        self.free: list[int] = []

    def remove(self, rows: Int64[Tensor, " n"]) -> None:
        slots = self.slot_of_row[rows]
        self.free += slots[slots >= 0].tolist()
        self.slot_of_row[rows] = -1

    def set(self, rows: Int64[Tensor, " n"], items: Tensor) -> None:
        """Store one item for each of `rows`, which were removed before."""
        lacking = len(rows) - len(self.free)
        if lacking > 0:
            old, added = len(self.items), max(lacking, len(self.items))
            blank = self.items.new_zeros((added, *self.items.shape[1:]))
            self.items = torch.cat([self.items, blank])
            self.free += range(old, old + added)
        slots = torch.tensor([self.free.pop() for _ in range(len(rows))], dtype=torch.int32)
        slots = slots.to(self.slot_of_row.device)
        self.slot_of_row[rows], self.items[slots.long()] = slots, items.to(self.items)

    def overwrite(self, rows: Int64[Tensor, " n"], values: Tensor) -> None:
        """Replace `values` in place for those of `rows` that have an item."""
        if len(self.items):
            slots = self.slot_of_row[rows]
            (has_item,) = (slots >= 0).nonzero(as_tuple=True)
            values[has_item] = self.items[slots[has_item].long()]

    def state_dict(self, rows: int) -> dict[str, Any]:
        return {
            "slot_of_row": self.slot_of_row[:rows].clone(),
            "items": self.items.clone(),
            "free": list(self.free),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = with_new_names(state, {"of": "slot_of_row", "kept": "items"})
        self.slot_of_row.fill_(-1)
        self.slot_of_row[: len(state["slot_of_row"])] = state["slot_of_row"]
        self.items, self.free = state["items"].to(self.items), list(state["free"])


class ReplayBuffer:
    """The last `capacity` steps of `num_envs` envs, in order; the oldest are overwritten.

    A slot holds one step of all envs. A row is one step of one env: row = slot · num_envs + env.

    Args:
        shape: of an observation; its first dimension is frames, oldest first, if `is_stacked`.
        action: an example of one env's action.
        is_stacked: consecutive observations share frames: only the newest of each is stored.
        keep_terminal: store the states in which episodes terminated too, for those who learn a model; what
            an agent learns from does not depend on them.

    Raises:
        BadInput: no room for two steps of each env, or frames that are not stacked.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        action: Tensor,
        *,
        is_stacked: bool = False,
        keep_terminal: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.num_envs, self.shape, self.device = num_envs, tuple(shape), torch.device(device)
        self.keep_terminal = keep_terminal
        self.num_stack = shape[0] if is_stacked else 1  # frames in an observation
        # one more for the observation that is to be acted on next, and those that only lend frames
        self.slots = capacity // num_envs + self.num_stack
        if capacity // num_envs < 2:
            raise BadInput(f"a replay buffer of {capacity} steps is too small for {num_envs} envs")
        frame_shape = self.shape[1:] if is_stacked else self.shape
        self.num_rows = self.slots * num_envs
        # zeros, not uninitialized: the row to be written next is in a checkpoint too
        options: dict[str, Any] = {"device": self.device}
        self.frame = torch.zeros((self.num_rows, *frame_shape), dtype=dtype, **options)
        self.action = torch.zeros((self.num_rows, *action.shape), dtype=action.dtype, **options)
        self.reward = torch.zeros(self.num_rows, **options)
        self.end = torch.zeros(self.num_rows, dtype=torch.uint8, **options)
        self.age = torch.zeros(self.num_rows, dtype=torch.uint8, **options)  # up to num_stack - 1
        self.final_frames = SparseRows(self.num_rows, frame_shape, dtype, self.device)
        self.first_stacks = SparseRows(self.num_rows, (self.num_stack - 1, *frame_shape), dtype, self.device)
        self.num_written = 0  # slots written since the beginning; the next one is under way
        self.last_observation: Tensor | None = None  # the newest observation, all its frames
        self.disk: DiskBuffer | None = None  # for frames that are too many for a checkpoint

    def attach(self, folder: Path | None) -> None:
        """Save the frames, if they are many, in chunks in the run `folder` rather than in checkpoints."""
        if folder is None or self.frame.nbytes <= SPILL_BYTES:
            self.disk = None
        elif self.disk is None or self.disk.folder != folder:
            self.disk = DiskBuffer(self.frame, self.num_envs, folder)

    @property
    def head(self) -> int:
        """The slot to be written next."""
        return self.num_written % self.slots

    @property
    def count(self) -> int:
        """Slots that hold a step."""
        return min(self.num_written, self.slots)

    def __len__(self) -> int:
        """Steps that can be sampled, of all envs."""
        return min(self.count, self.slots - self.num_stack) * self.num_envs

    @property
    def oldest(self) -> int:
        """The first row that can be sampled; the others follow it in the ring."""
        return (self.head * self.num_envs - len(self)) % self.num_rows

    def add(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Float[Tensor, "time envs"],
        terminated: Bool[Tensor, "time envs"],
        truncated: Bool[Tensor, "time envs"],
        last_observation: Tensor,
        final_observations: Tensor,
    ) -> Int64[Tensor, " rows"]:
        """Add steps, time first, and return the rows that hold them.

        Args:
            last_observation: to be acted on next.
            final_observations: the states that were `truncated` and not `terminated`, row by row; with
                `keep_terminal` those that were either.
        """
        length = len(reward)
        if length >= self.slots:
            raise BadInput(f"{length} steps at once do not fit a replay buffer of {self.slots}")
        observations = torch.cat([observation, last_observation[None]])
        slots = (self.head + torch.arange(length + 1)) % self.slots
        rows = (slots[:, None] * self.num_envs + torch.arange(self.num_envs)).to(self.device)
        new, flat = rows[:-1].flatten(), rows.flatten()
        end = torch.where(terminated, TERMINATED, torch.where(truncated, TRUNCATED, RUNNING))
        self.final_frames.remove(new)
        if self.num_stack > 1:
            self.first_stacks.remove(flat)
            self._set_stack_age(observations, end, rows)
        self.frame[flat] = self._newest_frame(observations.flatten(0, 1)).to(self.device)
        self.action[new] = action.flatten(0, 1).to(self.device)
        self.reward[new] = reward.flatten().to(self.device)
        self.end[new] = end.flatten().to(self.device, torch.uint8)
        is_final = (end != RUNNING if self.keep_terminal else end == TRUNCATED).to(self.device)
        if len(final_observations):
            self.final_frames.set(rows[:-1][is_final], self._newest_frame(final_observations))
        self.num_written += length
        self.last_observation = last_observation
        return new

    def _newest_frame(self, observation: Tensor) -> Tensor:
        return observation[:, -1] if self.num_stack > 1 else observation

    def _set_stack_age(self, observations: Tensor, end: Tensor, rows: Tensor) -> None:
        """Set how many of a row's older frames are in the rows before it."""
        before = (rows[0] - self.num_envs) % self.num_rows
        is_first = torch.ones(self.num_envs, dtype=torch.bool)
        if self.last_observation is not None:
            is_first = (self.end[before] != RUNNING).cpu()
            age = self.age[before].cpu()
            if not torch.equal(observations[0], self.last_observation):
                raise BadInput("the steps do not continue those in the replay buffer")
        else:
            age = torch.zeros(self.num_envs, dtype=torch.uint8)
        for t, row in enumerate(rows):
            age = torch.where(is_first, 0, (age + 1).clamp(max=self.num_stack - 1)).to(torch.uint8)
            self.age[row] = age.to(self.device)
            if is_first.any():
                self.first_stacks.set(row[is_first.to(self.device)], observations[t][is_first][:, :-1])
            shared = observations[t][~is_first][:, :-1]
            if t and not torch.equal(shared, observations[t - 1][~is_first][:, 1:]):
                raise BadInput("observations do not share their frames, so is_stacked must be False")
            is_first = end[t] != RUNNING if t < len(end) else is_first

    def mark_reset(self) -> None:
        """The envs were reset from outside: the observation that was to be acted on next ended an episode."""
        if not self.count:
            return
        head = self.head * self.num_envs + torch.arange(self.num_envs, device=self.device)
        newest = (head - self.num_envs) % self.num_rows
        newest = newest[self.end[newest] == RUNNING]
        self.final_frames.set(newest, self.frame[(newest + self.num_envs) % self.num_rows])
        self.end[newest] = TRUNCATED
        self.last_observation = None

    def _observations(self, rows: Tensor) -> Tensor:
        """The observations of these rows, with all frames."""
        if self.num_stack == 1:
            return self.frame.index_select(0, rows)
        back = torch.arange(self.num_stack - 1, -1, -1, device=self.device)
        sources = (rows[:, None] - back * self.num_envs) % self.num_rows
        frames = self.frame.index_select(0, sources.flatten()).unflatten(0, sources.shape)
        # frames from before the first step of the episode
        age = self.age[rows].long()
        which, position = (age[:, None] < back).nonzero(as_tuple=True)
        if len(which):
            first = (rows - age * self.num_envs)[which] % self.num_rows
            older = self.num_stack - 1 - (back[position] - age[which])
            slots = self.first_stacks.slot_of_row[first].long()
            frames[which, position] = self.first_stacks.items[slots, older]
        return frames

    def sample_at(self, index: Int64[Tensor, " batch"], gamma: float, n_step: int = 1) -> Transitions:
        """The `n_step` transitions that begin at rows `index`; near the newest row, with fewer steps."""
        index = index.to(self.device)
        reward, last, end = self.reward[index], index, self.end[index]
        discount = torch.full_like(reward, gamma)
        newest = (self.head - 1) % self.slots
        for _ in range(n_step - 1):
            continues = (end == RUNNING) & (last // self.num_envs != newest)
            last = torch.where(continues, (last + self.num_envs) % self.num_rows, last)
            reward = torch.where(continues, reward + discount * self.reward[last], reward)
            discount = torch.where(continues, discount * gamma, discount)
            end = self.end[last]
        observation = self._observations(index)
        return Transitions(
            observation,
            self.action[index],
            reward,
            self._next_observations(last, observation if n_step == 1 else None),
            discount.masked_fill_(end == TERMINATED, 0.0),
        )

    def next_frames(self, rows: Int64[Tensor, " batch"]) -> Tensor:
        """The newest frames of the observations that the steps at `rows` led to."""
        frame = self.frame.index_select(0, (rows + self.num_envs) % self.num_rows)
        self.final_frames.overwrite(rows, frame)
        return frame

    def _next_observations(self, last: Tensor, observation: Tensor | None) -> Tensor:
        """The observations that the steps at rows `last`, with this `observation`, led to."""
        frame = self.next_frames(last)
        if self.num_stack == 1:
            return frame
        # one frame on from `last`, whichever row comes after it
        observation = self._observations(last) if observation is None else observation
        return torch.cat([observation[:, 1:], frame[:, None]], 1)

    COLUMNS = ("frame", "action", "reward", "end", "age")

    def state_dict(self) -> dict[str, Any]:
        # rows that were never written are not saved; the ring is full, or they are the last ones
        used = self.num_rows if self.count + 1 >= self.slots else (self.count + 1) * self.num_envs
        used = used if self.count else 0
        state: dict[str, Any] = {"num_written": self.num_written, "last_observation": self.last_observation}
        if self.disk is not None:
            state["disk"] = self.disk.write(self.num_written)
        for name in self.COLUMNS:
            if self.disk is None or name != "frame":
                state[name] = getattr(self, name)[:used].clone()
        state["final_frames"] = self.final_frames.state_dict(used)
        state["first_stacks"] = self.first_stacks.state_dict(used)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = with_new_names(
            state,
            {
                "lived": "num_written",
                "previous": "last_observation",
                "apart": "disk",
                "cuts": "final_frames",
                "begins": "first_stacks",
            },
        )
        for name in self.COLUMNS:
            if name in state:
                getattr(self, name)[: len(state[name])] = state[name].to(self.device)
        self.final_frames.load_state_dict(state["final_frames"])
        self.first_stacks.load_state_dict(state["first_stacks"])
        self.num_written, self.last_observation = state["num_written"], state["last_observation"]
        if "disk" in state:
            if self.disk is None:
                raise BadInput("this replay buffer's frames are beside its checkpoint: resume in that folder")
            self.disk.read(state["disk"], self.num_written)
