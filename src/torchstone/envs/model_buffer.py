"""Transitions that a learned model predicted, kept for some trainings of the model."""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from torchstone.envs.replay_buffer import Transitions


class ModelBuffer:
    """The rollouts of the last `generations` trainings of the model; those of older models are dropped.

    How many rows a generation has does not matter: rollouts grow longer, and end where they terminate.
    """

    def __init__(self, generations: int):
        self.generations: deque[Transitions] = deque(maxlen=generations)
        self.rows: Transitions | None = None

    def __len__(self) -> int:
        """Rows that can be sampled."""
        return 0 if self.rows is None else len(self.rows.reward)

    def add(self, transitions: Transitions) -> None:
        """The rollouts of a model that has just been trained."""
        self.generations.append(transitions)
        self._join()

    def _join(self) -> None:
        self.rows = Transitions(*(torch.cat(column) for column in zip(*self.generations, strict=True)))

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """`count` rows, each as likely as any other, with replacement."""
        assert self.rows is not None, "no rollouts to sample from"
        index = torch.randint(len(self), (count,), generator=generator).to(self.rows.reward.device)
        return Transitions(*(column.index_select(0, index) for column in self.rows))

    def state_dict(self) -> dict[str, Any]:
        return {"generations": [list(each) for each in self.generations]}

    def load_state_dict(self, state: dict[str, list[list[Tensor]]]) -> None:
        self.generations.clear()
        self.generations.extend(Transitions(*each) for each in state["generations"])
        self.rows = None
        if self.generations:
            self._join()
