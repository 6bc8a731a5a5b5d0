"""The best weights so far by a metric of validation, and how long ago that was: what early stopping needs."""

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

from torch import Tensor, nn

from torchstone.engine import parallel
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.metrics.direction import is_lower_better


class BestWeights:
    """Keeps the weights of the best evaluation. Of equal ones that of the lower `loss` counts (accuracies of
    few examples are often equal), then the latest, which has trained longest.

    Args:
        metric: name of a metric of validation; None keeps nothing, so that the last weights count.
        patience: evaluations without a better one after which to stop; None for never.
        modules: those whose weights are kept, by name.
    """

    def __init__(self, metric: str | None, patience: int | None, modules: Mapping[str, nn.Module]):
        if metric is None and patience is not None:
            raise BadInput("patience needs a metric of validation, and this run names none: leave it out")
        self.metric, self.patience, self.modules = metric, patience, modules
        self.value: float | None = None
        self.step = self.stale = 0
        self.metrics: dict[str, float] = {}
        self.calibration: dict[str, Any] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}

    @property
    def is_exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.stale >= self.patience

    def consider(self, step: int, metrics: Mapping[str, float], calibration: Mapping[str, Any]) -> None:
        """Keep the weights of this evaluation if none was better.

        Raises:
            BadInput: the evaluation has no such metric.
        """
        if self.metric is None:
            return
        if self.metric not in metrics:
            raise BadInput(f"validation has no metric {self.metric!r}: {did_you_mean(self.metric, metrics)}")
        metrics = parallel.gather(dict(metrics))[0]  # all processes decide alike
        new = self._rank(metrics)
        best = None if self.value is None else self._rank(self.metrics)
        is_better = best is None or new > best
        self.stale = 0 if is_better else self.stale + 1
        if is_better or new == best:
            self.value, self.step = metrics[self.metric], step
            self.metrics, self.calibration = metrics, dict(calibration)
            self.weights = self._clone()

    def _rank(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """The higher the better."""
        assert self.metric is not None
        value = metrics[self.metric]
        return -value if is_lower_better(self.metric) else value, -metrics.get("loss", 0.0)

    def _clone(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: {key: value.detach().clone() for key, value in module.state_dict().items()}
            for name, module in self.modules.items()
        }

    @contextlib.contextmanager
    def loaded(self, step: int) -> Generator[None]:
        """Within, the modules have the best weights; `step` is where training is."""
        if self.value is None or self.step == step:
            yield
            return
        last = self._clone()
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(last)

    def _put(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(weights[name])

    def tensors(self, step: int) -> dict[str, Tensor] | None:
        """What a checkpoint at `step` must hold of the weights; None where they are those of that step."""
        if self.value is None or self.step == step:
            return None
        return {f"{name}.{key}": value for name, each in self.weights.items() for key, value in each.items()}

    def about(self) -> dict[str, Any] | None:
        """The rest of the state, as JSON; None before the first evaluation."""
        if self.value is None:
            return None
        names = ("metric", "value", "step", "stale", "metrics", "calibration")
        return {name: getattr(self, name) for name in names}

    def restore(self, about: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> None:
        """Put back what a checkpoint held.

        Args:
            tensors: by the names that `tensors` gives; empty where they are the modules' own of now.
        """
        if about is None or about["metric"] != self.metric:
            return  # of an earlier version, or by another metric: it begins anew
        for name in ("value", "step", "stale", "metrics", "calibration"):
            setattr(self, name, about[name])
        self.weights = self._clone()
        for name, each in self.weights.items() if tensors else ():
            for key, value in each.items():
                value.copy_(tensors[f"{name}.{key}"])
