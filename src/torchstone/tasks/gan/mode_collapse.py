"""Mode collapse, named while it happens: a generator that makes a few things only."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from torchstone.engine.console import notify

EARLY = 0.25  # of the steps, in which samples may still be alike: nothing is learnt yet
LOST = 0.5  # of what there was
SOME = 0.5  # of the classes, or of the data's variety: what can be lost
LEAST = {"modes": 0.5, "variety": 0.25}  # of the classes, and of the data's variety, later on


class Watch:
    """Looks at `modes` and `variety` each time samples are judged, and remembers the best there were.

    A collapse is the loss of more than half of what there already was; and once a quarter of the steps
    are done, also samples of less than half of the classes, or that vary less than a quarter as much as
    data do, though they never did better.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = list(classes)
        self.best = {"modes": 0.0, "variety": 0.0}
        self.named = False

    def look(
        self, numbers: Mapping[str, float], there: Bool[Tensor, " classes"], step: int, steps: int
    ) -> float:
        """1.0 if these are the samples of a collapse, which is said in one line, else 0.0.

        Args:
            there: which classes the samples have.
        """
        whole = {"modes": float(len(self.classes)), "variety": 1.0}
        fallen = {}
        for name, most in whole.items():
            had = min(self.best[name], most)
            floor = LOST * had if had >= SOME * most else 0.0
            if step >= EARLY * steps:
                floor = max(floor, LEAST[name] * most)
            fallen[name] = numbers[name] < floor
            self.best[name] = max(self.best[name], numbers[name])
        collapsed = any(fallen.values())
        if collapsed and not self.named:
            notify(f"step {step}: {self.said(numbers, there, fallen)}")
        self.named = collapsed
        return float(collapsed)

    def said(self, numbers: Mapping[str, float], there: Bool[Tensor, " classes"], fallen: Mapping) -> str:
        lacking = [c for c, is_there in zip(self.classes, there.tolist(), strict=True) if not is_there]
        parts = ["mode collapse"]
        if fallen["modes"]:
            missing = ", ".join(lacking[:10]) + " …" * (len(lacking) > 10)
            parts.append(f"{len(lacking)} of {len(self.classes)} classes are missing ({missing})")
        if fallen["variety"]:
            parts.append(f"samples vary {numbers['variety']:.2f} times as much as the data")
        return ": ".join([parts[0], " and ".join(parts[1:])]) + "; try a lower lr, or another loss"

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self.best), "named": self.named}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.named = dict(state["best"]), state["named"]
