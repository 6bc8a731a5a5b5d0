"""Learning-rate schedules: the factor of the learning rate, as a function of the number of updates done."""

import math
from typing import Any


def linear_warmup(step: int, warm: int) -> float:
    """1/(w+1), 2/(w+1), … over w steps: the first update does not stand still, and 1 follows the last."""
    return min(1.0, (step + 1) / (warm + 1))


def step_decay(step: int, period: int, decay: float) -> float:
    """Times γ every `period` steps."""
    return decay ** (step // period)


def exponential_decay(step: int, period: int, decay: float) -> float:
    """The same without stairs: γ^(t/period)."""
    return decay ** (step / period)


def cosine_decay(step: float, steps: float, floor: float = 0.0) -> float:
    """Half a cosine from 1 to `floor` (Loshchilov and Hutter 2016, arXiv:1608.03983, equation 5)."""
    return floor + (1 - floor) * (0.5 * (1 + math.cos(math.pi * step / steps)))


def warm_restarts(step: int, period: int, multiplier: int = 1, floor: float = 0.0) -> float:
    """SGDR (the same paper): half a cosine over T₀ steps, then over T₀·m, T₀·m², …

    Restart k is at T₀·(mᵏ − 1)/(m − 1); restarts are found in whole numbers, since a logarithm's rounding
    would put some a cycle off.
    """
    while step >= period:
        if multiplier == 1:
            step %= period
        else:
            step, period = step - period, period * multiplier
    return cosine_decay(step, period, floor)


def one_cycle(
    step: int, steps: int, rise: float = 0.3, initial: float = 1 / 25, final: float = 1 / 25 / 1e4
) -> float:
    """Half a cosine up from `initial` to 1 over the share `rise` of the steps, and down to `final` at the
    last (Smith and Topin 2017, arXiv:1708.07120, as torch has it by default). With both 0 it is
    the share of its fall by which the momentum is lower (Smith 2018, arXiv:1803.09820, section 4.3).
    """
    top, last = rise * steps - 1, steps - 1
    if step <= top:
        return cosine_between(initial, 1.0, step / top)
    return cosine_between(1.0, final, min(1.0, (step - top) / (last - top)))


def cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


class Plateau:
    """Times γ whenever more than `patience` evaluations in a row were no better than the best.

    As in torch, better means by more than 1e-4 of the best. `state_dict` is all that it remembers.
    """

    def __init__(self, decay: float = 0.1, patience: int = 10, threshold: float = 1e-4):
        self.decay, self.patience, self.threshold = decay, patience, threshold
        self.factor, self.stale = 1.0, 0
        self.best: float | None = None

    def observe(self, value: float, *, is_lower_better: bool = True) -> None:
        """Take in the next evaluation's metric."""
        if self.best is None:
            is_better = True
        elif is_lower_better:
            is_better = value < self.best * (1 - self.threshold)
        else:
            is_better = value > self.best * (1 + self.threshold)
        if is_better:
            self.best, self.stale = value, 0
        else:
            self.stale += 1
        if self.stale > self.patience:
            self.factor, self.stale = self.factor * self.decay, 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "stale": self.stale, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor, self.stale, self.best = state["factor"], state["stale"], state["best"]
