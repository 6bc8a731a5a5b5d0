"""Several optimizers for parts of a network's weights, as one: Muon for matrices, AdamW for the rest."""

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import torch

from torchstone.parts.optim.gradients import closure_loss


class CombinedOptimizer(torch.optim.Optimizer):
    """Steps each of its optimizers in turn. `param_groups` are theirs, so that a schedule reaches all."""

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer]):
        self.optimizers = dict(optimizers)
        groups = [group for o in self.optimizers.values() for group in o.param_groups]
        super().__init__([p for group in groups for p in group["params"]], {})
        self._share()

    def _share(self) -> None:
        self.param_groups = [group for o in self.optimizers.values() for group in o.param_groups]
        self.state = ChainMap(*(o.state for o in self.optimizers.values()))

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure_loss(closure)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state_dict[name])
        self._share()  # loading makes new groups
