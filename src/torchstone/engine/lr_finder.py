"""The learning-rate range test: train while the rate grows, and see where the loss falls fastest.

Smith 2015, arXiv:1506.01186, section 3.3. The rate grows by the same factor at each update. The loss is
smoothed as Adam's first moment is, ℓ̄ ← 0.9·ℓ̄ + 0.1·ℓ, divided by 1 − 0.9ᵗ; the test ends where it is four
times its best, or not finite. Suggested is the rate at which ℓ̄ falls most per decade.
"""

import contextlib
import copy
import math
from collections.abc import Generator
from typing import Any, NamedTuple

import torch

from torchstone.engine import rng
from torchstone.engine.run import Run
from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput, NotFinite

SMOOTHING, DIVERGED = 0.9, 4.0
LOW, HIGH, UPDATES = 1e-6, 10.0, 120


class LrCurve(NamedTuple):
    """Rates, the loss at each and the smoothed one (equally long), and the rate that they suggest."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float


def find_lr(run: Run, *, low: float = LOW, high: float = HIGH, updates: int = UPDATES) -> LrCurve:
    """The curve of `run` from where it is, with all of its state put back afterwards, bit for bit.

    Raises:
        BadInput: the run is not of one network with one gradient update and a `loss`, or it diverges at once.
    """
    steps = [item for item in run.state.values() if isinstance(item, GradientUpdate)]
    if len(steps) != 1:
        what = f"has {len(steps)} that work against each other" if steps else "has none to be set"
        raise BadInput(f"the learning-rate finder is for one optimizer, and this run {what}: give --lr")
    optimizer = steps[0].optimizer
    rates, losses, smoothed, mean = [], [], [], 0.0
    with untouched(run):
        peak = max(group["lr"] for group in optimizer.param_groups) or 1.0
        shares = [(group["lr"] or peak) / peak for group in optimizer.param_groups]
        for number in range(updates):
            rate = low * (high / low) ** (number / max(1, updates - 1))
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            try:
                metrics = run.update(next(run.stream))
            except NotFinite:
                break
            if "loss" not in metrics:
                raise BadInput("the learning-rate finder needs a loss, and this run reports none: give --lr")
            loss = float(metrics["loss"])
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            unbiased = mean / (1 - SMOOTHING ** (number + 1))
            if not math.isfinite(loss) or has_diverged(unbiased, smoothed):
                break
            rates.append(rate)
            losses.append(loss)
            smoothed.append(unbiased)
    if len(rates) < 5:
        raise BadInput(f"the loss is not finite after {len(rates)} updates from a rate of {low:g} on")
    return LrCurve(rates, losses, smoothed, suggest(rates, smoothed))


def has_diverged(loss: float, before: list[float]) -> bool:
    """Four times as far above the best loss as zero is below it; of negative losses likewise."""
    return bool(before) and loss - min(before) > (DIVERGED - 1) * max(abs(min(before)), 1e-8)


def suggest(rates: list[float], smoothed: list[float]) -> float:
    """The rate at which the smoothed loss falls most per decade, before it is at its lowest.

    The slope at a point is that of the straight line through it and three points on each side.
    """
    lowest = smoothed.index(min(smoothed))
    x, best, steepest = [math.log10(rate) for rate in rates], rates[max(0, lowest // 2)], 0.0
    for middle in range(1, max(2, lowest)):
        window = range(max(0, middle - 3), min(len(x), middle + 4))
        mean_x = sum(x[i] for i in window) / len(window)
        slope = sum((x[i] - mean_x) * smoothed[i] for i in window) / sum((x[i] - mean_x) ** 2 for i in window)
        if slope < steepest:
            best, steepest = rates[middle], slope
    return best


@contextlib.contextmanager
def untouched(run: Run) -> Generator[None]:
    """Within, the run may be trained; afterwards it is as it was: state, gradients, global generators."""
    for item in run.state.values():
        attach = getattr(item, "attach", None)
        if attach is not None:
            attach(None)
    random = rng.snapshot()
    states: dict[str, Any] = {name: copy.deepcopy(item.state_dict()) for name, item in run.state.items()}
    modules = [item for item in run.state.values() if isinstance(item, torch.nn.Module)]
    gradients = [(p, p.grad) for module in modules for p in module.parameters()]
    modes = [(m, m.training) for module in modules for m in module.modules()]
    for p, gradient in gradients:
        p.grad = None if gradient is None else gradient.clone()
    try:
        yield
    finally:
        for name, item in run.state.items():
            item.load_state_dict(states[name])
        for p, gradient in gradients:
            p.grad = gradient
        for module, is_training in modes:
            module.training = is_training
        rng.restore(random)
