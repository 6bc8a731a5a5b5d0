"""Detection of mode collapse during training: a generator that makes only a few kinds of images."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from torchstone.engine.console import notify

WARMUP_RATIO = 0.25  # of the steps, in which samples may still be alike, since nothing is learned yet
DROP_RATIO = 0.5  # of the best value so far: below it counts as a collapse
MIN_BEST = 0.5  # of the number of classes, or of the data's variance: only a best value above it can drop
MIN_LATE = {"covered_classes": 0.5, "relative_variance": 0.25}  # of the same, after the warm-up
OLD_NAMES = {"modes": "covered_classes", "variety": "relative_variance"}  # in states of earlier versions


class ModeCollapseMonitor:
    """Tracks the best `covered_classes` and `relative_variance` so far, at each evaluation of samples.

    A collapse is the loss of more than half of what was reached before. After a quarter of the steps it is
    also samples of less than half of the classes, or with less than a quarter of the data's variance, even
    if they were never better.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = list(classes)
        self.best = dict.fromkeys(MIN_LATE, 0.0)
        self.reported = False

    def update(
        self, metrics: Mapping[str, float], covered: Bool[Tensor, " classes"], step: int, steps: int
    ) -> float:
        """1.0 if the samples have collapsed, which is reported in one line when it begins, else 0.0.

        Args:
            covered: which classes the samples cover.
        """
        full = {"covered_classes": float(len(self.classes)), "relative_variance": 1.0}
        collapsed = {}
        for name, maximum in full.items():
            best = min(self.best[name], maximum)
            threshold = DROP_RATIO * best if best >= MIN_BEST * maximum else 0.0
            if step >= WARMUP_RATIO * steps:
                threshold = max(threshold, MIN_LATE[name] * maximum)
            collapsed[name] = metrics[name] < threshold
            self.best[name] = max(self.best[name], metrics[name])
        is_collapse = any(collapsed.values())
        if is_collapse and not self.reported:
            notify(f"step {step}: {self.summary(metrics, covered, collapsed)}")
        self.reported = is_collapse
        return float(is_collapse)

    def summary(
        self, metrics: Mapping[str, float], covered: Bool[Tensor, " classes"], collapsed: Mapping[str, bool]
    ) -> str:
        """What is missing, in one line."""
        missing = [c for c, is_covered in zip(self.classes, covered.tolist(), strict=True) if not is_covered]
        parts = []
        if collapsed["covered_classes"]:
            names = ", ".join(missing[:10]) + " …" * (len(missing) > 10)
            parts.append(f"{len(missing)} of {len(self.classes)} classes are missing ({names})")
        if collapsed["relative_variance"]:
            variance = metrics["relative_variance"]
            parts.append(f"samples vary {variance:.2f} times as much as the data")
        return f"mode collapse: {' and '.join(parts)}; try a lower lr, or another loss"

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self.best), "reported": self.reported}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = {OLD_NAMES.get(name, name): value for name, value in state["best"].items()}
        self.reported = state["reported"] if "reported" in state else state["named"]
