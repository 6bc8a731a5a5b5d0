"""Replay: what was lived through, kept on the device in a ring, to be drawn from again (Lin 1992).

An observation is kept once, not as what followed one step and again as what the next step began with; of
stacked frames only the newest, the others being those of the rows before. What a ring of rows cannot say
is kept aside: the true last observation of an episode that a clock cut (the row after it belongs to the
next episode), and the older frames that an episode began with.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.envs.disk_buffer import LARGE, Spilled
from torchstone.envs.sparse_rows import Aside
from torchstone.errors import BadInput

GOING, TERMINATED, TRUNCATED = 0, 1, 2


class Rows(NamedTuple):
    """Steps that were drawn: what an n-step target is made of."""

    observation: Tensor  # (batch, *shape), what was acted on
    action: Tensor  # (batch,) int64, or (batch, n) float32
    reward: Float[Tensor, " batch"]  # Σ_{k<m} γ^k r_{t+k}, m ≤ n: fewer where the episode ended before
    following: Tensor  # (batch, *shape), the state m steps later; of no meaning where discount is 0
    discount: Float[Tensor, " batch"]  # γ^m, and 0 where the episode terminated


class Replay:
    """The last `capacity` steps of `worlds` worlds, in order; the oldest make room.

    Args:
        shape: of an observation; its first dimension is frames, oldest first, if `stacked`.
        action: what an action looks like, without the worlds.
        stacked: observations share frames: only the newest is kept of each.

    Raises:
        BadInput: no room for two steps of each world, or frames that are not stacked.
    """

    def __init__(
        self,
        capacity: int,
        worlds: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        action: Tensor,
        *,
        stacked: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.worlds, self.shape, self.device = worlds, tuple(shape), torch.device(device)
        self.deep = shape[0] if stacked else 1  # frames in an observation
        # one more for the observation that is to be acted on next, and those that only lend frames
        self.slots = capacity // worlds + self.deep
        if capacity // worlds < 2:
            raise BadInput(f"a memory of {capacity} steps is too small for {worlds} worlds")
        piece, self.total = self.shape[1:] if stacked else self.shape, self.slots * worlds
        # zeros, not whatever was there: the row to be written next is in a checkpoint too
        options: dict[str, Any] = {"device": self.device}
        self.frame = torch.zeros((self.total, *piece), dtype=dtype, **options)
        self.action = torch.zeros((self.total, *action.shape), dtype=action.dtype, **options)
        self.reward = torch.zeros(self.total, **options)
        self.end = torch.zeros(self.total, dtype=torch.uint8, **options)
        self.age = torch.zeros(self.total, dtype=torch.uint8, **options)  # up to deep - 1
        self.cuts = Aside(self.total, piece, dtype, self.device)
        self.begins = Aside(self.total, (self.deep - 1, *piece), dtype, self.device)
        self.lived = 0  # slots filled since the beginning; the next one is under way
        self.previous: Tensor | None = None  # the newest observation, whole
        # where frames are kept that are too many for a checkpoint
        self.pieces: Spilled | None = None

    def beside(self, where: Callable[[], Path | None]) -> None:
        """Keep the frames, if they are many, beside the checkpoints in the folder that `where` gives."""
        if self.frame.nbytes > LARGE:
            self.pieces = Spilled(self.frame, self.worlds, where)

    @property
    def head(self) -> int:
        """The slot written next."""
        return self.lived % self.slots

    @property
    def count(self) -> int:
        """Slots that hold a step."""
        return min(self.lived, self.slots)

    def __len__(self) -> int:
        """Steps that can be drawn, of all worlds."""
        return min(self.count, self.slots - self.deep) * self.worlds

    @property
    def oldest(self) -> int:
        """The first row that can be drawn; the others follow it, round the ring."""
        return (self.head * self.worlds - len(self)) % self.total

    def add(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Float[Tensor, "time worlds"],
        terminated: Bool[Tensor, "time worlds"],
        truncated: Bool[Tensor, "time worlds"],
        last: Tensor,
        cuts: Tensor,
    ) -> Int64[Tensor, " rows"]:
        """Take in steps, time first; `last` is to be acted on next, and `cuts` are the states that were
        `truncated` and not `terminated`, row by row. Returns where they now are."""
        length = len(reward)
        if length >= self.slots:
            raise BadInput(f"{length} steps at once do not fit a memory of {self.slots}")
        whole = torch.cat([observation, last[None]])
        slots = (self.head + torch.arange(length + 1)) % self.slots
        rows = (slots[:, None] * self.worlds + torch.arange(self.worlds)).to(self.device)
        new, flat = rows[:-1].flatten(), rows.flatten()
        end = torch.where(terminated, TERMINATED, torch.where(truncated, TRUNCATED, GOING))
        self.cuts.forget(new)
        if self.deep > 1:
            self.begins.forget(flat)
            self._age(whole, end, rows)
        self.frame[flat] = self._newest(whole.flatten(0, 1)).to(self.device)
        self.action[new] = action.flatten(0, 1).to(self.device)
        self.reward[new] = reward.flatten().to(self.device)
        self.end[new] = end.flatten().to(self.device, torch.uint8)
        cut = (end == TRUNCATED).to(self.device)
        if len(cuts):
            self.cuts.put(rows[:-1][cut], self._newest(cuts))
        self.lived += length
        self.previous = last
        return new

    def _newest(self, observation: Tensor) -> Tensor:
        return observation[:, -1] if self.deep > 1 else observation

    def _age(self, whole: Tensor, end: Tensor, rows: Tensor) -> None:
        """How many of a row's older frames stand in the rows before it."""
        before = (rows[0] - self.worlds) % self.total
        begun = torch.ones(self.worlds, dtype=torch.bool)
        if self.previous is not None:
            begun = (self.end[before] != GOING).cpu()
            age = self.age[before].cpu()
            if not torch.equal(whole[0], self.previous):
                raise BadInput("steps do not follow upon those that are kept")
        else:
            age = torch.zeros(self.worlds, dtype=torch.uint8)
        for t, row in enumerate(rows):
            age = torch.where(begun, 0, (age + 1).clamp(max=self.deep - 1)).to(torch.uint8)
            self.age[row] = age.to(self.device)
            if begun.any():
                self.begins.put(row[begun.to(self.device)], whole[t][begun][:, :-1])
            if t and not torch.equal(whole[t][~begun][:, :-1], whole[t - 1][~begun][:, 1:]):
                raise BadInput("observations do not share their frames, so each must be kept whole")
            begun = end[t] != GOING if t < len(end) else begun

    def sever(self) -> None:
        """The worlds were begun anew from outside: what was to be acted on next ended an episode."""
        if not self.count:
            return
        head = self.head * self.worlds + torch.arange(self.worlds, device=self.device)
        newest = (head - self.worlds) % self.total
        newest = newest[self.end[newest] == GOING]
        self.cuts.put(newest, self.frame[(newest + self.worlds) % self.total])
        self.end[newest] = TRUNCATED
        self.previous = None

    def _seen(self, rows: Tensor) -> Tensor:
        """The observations of these rows, whole."""
        if self.deep == 1:
            return self.frame.index_select(0, rows)
        back = torch.arange(self.deep - 1, -1, -1, device=self.device)
        places = (rows[:, None] - back * self.worlds) % self.total
        frames = self.frame.index_select(0, places.flatten()).unflatten(0, places.shape)
        # beyond the beginning: what the episode began with
        age = self.age[rows].long()
        which, place = (age[:, None] < back).nonzero(as_tuple=True)
        if len(which):
            begin = (rows - age * self.worlds)[which] % self.total
            older = self.deep - 1 - (back[place] - age[which])
            frames[which, place] = self.begins.kept[self.begins.of[begin].long(), older]
        return frames

    def rows(self, index: Int64[Tensor, " batch"], gamma: float, n: int = 1) -> Rows:
        """The steps at `index`, n at a time; near the newest, as many as there are."""
        index = index.to(self.device)
        reward, last, end = self.reward[index], index, self.end[index]
        discount = torch.full_like(reward, gamma)
        newest = (self.head - 1) % self.slots
        for _ in range(n - 1):
            going = (end == GOING) & (last // self.worlds != newest)
            last = torch.where(going, (last + self.worlds) % self.total, last)
            reward = torch.where(going, reward + discount * self.reward[last], reward)
            discount = torch.where(going, discount * gamma, discount)
            end = self.end[last]
        seen = self._seen(index)
        return Rows(
            seen,
            self.action[index],
            reward,
            self._ahead(last, seen if n == 1 else None),
            discount.masked_fill_(end == TERMINATED, 0.0),
        )

    def _ahead(self, last: Tensor, seen: Tensor | None) -> Tensor:
        """What these rows, where `seen` was, led to."""
        frame = self.frame.index_select(0, (last + self.worlds) % self.total)
        self.cuts.over(last, frame)
        if self.deep == 1:
            return frame
        # one frame on from `last`, whichever row comes after it
        seen = self._seen(last) if seen is None else seen
        return torch.cat([seen[:, 1:], frame[:, None]], 1)

    def state_dict(self) -> dict[str, Any]:
        # rows that were never written are not kept; the ring is full, or they are the last ones
        used = self.total if self.count + 1 >= self.slots else (self.count + 1) * self.worlds
        used = used if self.count else 0
        state: dict[str, Any] = {"lived": self.lived, "previous": self.previous}
        apart = self.pieces if self.pieces is not None and self.pieces.where() else None
        if apart is not None:
            state["apart"] = apart.write(self.lived)
        for name in self.COLUMNS:
            if apart is None or name != "frame":
                state[name] = getattr(self, name)[:used].clone()
        return state | {n: getattr(self, n).state_dict(used) for n in ("cuts", "begins")}

    COLUMNS = ("frame", "action", "reward", "end", "age")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self.COLUMNS:
            if name in state:
                getattr(self, name)[: len(state[name])] = state[name].to(self.device)
        self.cuts.load_state_dict(state["cuts"]), self.begins.load_state_dict(state["begins"])
        self.lived, self.previous = state["lived"], state["previous"]
        if "apart" in state:
            if self.pieces is None:
                raise BadInput("the frames of this memory are kept beside its checkpoint: resume there")
            self.pieces.read(state["apart"], self.lived)
