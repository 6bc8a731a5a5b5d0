"""`torchstone verify`: published facts to the unit, and parity with a reference.

Parity means: the same output, the same gradient of every parameter, and the same output again after
three steps of gradient descent, for the same weights and inputs.
"""

import copy
import sys
import time
import types
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone import systems
from torchstone.engine.recipe_fields import checked
from torchstone.parts.facts import ParityCase
from torchstone.systems import System

# relative to the largest value: a few roundings of the type, over sums of some thousand terms
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@dataclass(frozen=True)
class Check:
    """One thing checked: `measured` against `expected`, within `tolerance`."""

    system: str
    name: str
    passed: bool
    measured: Any
    expected: Any
    tolerance: float
    seconds: float

    def as_dict(self) -> dict:
        return asdict(self)


def verify(entry: System) -> list[Check]:
    """All checks of a system. A check that raises has failed, and says with what."""
    module, checks = entry.module(), []
    for fact in module.FACTS:
        checks.append(_checked(entry.name, fact.name, fact.measure, fact.published, fact.tolerance))
    pairs, number = module.reference(), 0
    while True:
        number += 1
        began = time.perf_counter()
        try:
            pair = next(pairs, None)
            pair = pair and ParityCase(*(pair() if callable(pair) else pair))
        except Exception as error:  # noqa: BLE001  a reference that cannot be made is a failed check
            message = f"{type(error).__name__}: {error}"
            seconds = time.perf_counter() - began
            checks.append(Check(entry.name, f"reference {number}", False, message, "runs", 0.0, seconds))
            break
        if pair is None:
            break
        checks += _parity(entry.name, number, pair)
    return checks


def _checked(system: str, name: str, measure, expected, tolerance: float) -> Check:
    began = time.perf_counter()
    try:
        measured = measure()
        passed = measured == expected if not tolerance else abs(measured - expected) <= tolerance
    except Exception as error:  # noqa: BLE001
        measured, passed = f"{type(error).__name__}: {error}", False
    return Check(system, name, bool(passed), measured, expected, tolerance, time.perf_counter() - began)


def _parity(system: str, number: int, pair: ParityCase) -> list[Check]:
    ours, theirs, inputs, names, optimizer, message = pair
    label = " = ".join(getattr(net, "__name__", type(net).__name__) for net in (ours, theirs))
    label += message and f", {message}"
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)

    def check(what: str, measure) -> Check:
        tensors = [*inputs, *(ours.parameters() if isinstance(ours, nn.Module) else ())]
        floats = (x.dtype for x in tensors if isinstance(x, Tensor) and x.is_floating_point())
        dtype = next(floats, None)
        tolerance = TOLERANCE.get(dtype or torch.float32, 1e-5)
        return _checked(system, f"{label} ({number}): {what}", measure, 0.0, tolerance)

    if (
        not isinstance(ours, nn.Module)
        or not isinstance(theirs, nn.Module)
        or not any(True for _ in ours.parameters())
    ):
        return [check("output", lambda: relative_error(_run(ours, inputs), _run(theirs, inputs)))]
    # the reference may wrap the very same module, and a later pair may use these again
    ours, theirs = copy.deepcopy(ours), copy.deepcopy(theirs)
    outputs: list = []  # of one pass each, whose gradients are those of the first step

    def compare_outputs() -> float:
        outputs.extend(_run(model, inputs) for model in (ours, theirs))
        return relative_error(*outputs)

    checks = [check("output", compare_outputs)]
    if len(outputs) == 2:
        checks.append(check("gradients", lambda: _gradients(ours, theirs, outputs, names)))
        if optimizer is not None:
            steps = f"after 3 steps of {getattr(optimizer, '__name__', optimizer)}"
            checks.append(check(steps, lambda: _steps(ours, theirs, inputs, optimizer)))
    return checks


def _run(model, inputs: tuple):
    """One call; dropout and the like draw the same numbers on either side."""
    torch.manual_seed(0)
    return model(*inputs)


def relative_error(a, b) -> float:
    """The largest difference, relative to the largest value of `b`; nested outputs are compared in turn."""
    if isinstance(b, Tensor):
        if a.shape != b.shape:
            raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)}")
        scale = float(b.detach().abs().max().clamp(min=1e-30)) if b.numel() else 1.0
        return float((a.detach() - b.detach()).abs().max()) / scale if b.numel() else 0.0
    if isinstance(b, tuple | list):
        return max(relative_error(x, y) for x, y in zip(a, b, strict=True))
    return abs(a - b) / max(abs(b), 1e-30) if a != b else 0.0


def _loss(output) -> Tensor:
    """A scalar that depends on every output, unevenly."""
    if not isinstance(output, Tensor):
        losses = (_loss(each) for each in output if isinstance(each, Tensor))
        return sum(losses, start=torch.zeros(()))
    flat = output.flatten()
    return (flat * torch.linspace(0.5, 1.5, len(flat), dtype=flat.dtype)).square().mean()


def _gradients(ours: nn.Module, theirs: nn.Module, outputs: list, names) -> float:
    columns = []
    for model, output in zip((ours, theirs), outputs, strict=True):
        model.zero_grad()
        _loss(output).backward()
        columns.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    a, b = columns
    if names is None:
        b = dict(zip(a, b.values(), strict=True))
    else:
        b = names({name: grad for name, grad in b.items() if grad is not None})
    if missing := [n for n, grad in a.items() if grad is None or b.get(n) is None]:
        raise ValueError(f"no gradient of {missing[0]} to compare")
    return max(relative_error(grad, b[name]) for name, grad in a.items())


def _steps(ours: nn.Module, theirs: nn.Module, inputs, make) -> float:
    """Three steps from the gradients that both have."""
    after = []
    for model in (ours, theirs):
        optimizer = make([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        optimizer.step()
        for _ in range(2):
            optimizer.zero_grad()
            _loss(_run(model, inputs)).backward()
            optimizer.step()
        with torch.no_grad():
            after.append(_run(model, inputs))
    return relative_error(*after)


def verify_by_name(name: str | None = None) -> list[Check]:
    """The checks of a system, or of all.

    Raises:
        BadInput: no such system.
    """
    entries = [systems.find(name)[0]] if name else systems.CATALOGUE
    return [check for entry in entries for check in verify(entry)]


class _Callable(types.ModuleType):
    """Importing this module puts it in the package in place of `ts.verify`, so it is called like that."""

    def __call__(self, name: str | None = None) -> list[Check]:
        return verify_by_name(checked("the system", str | None, name))


sys.modules[__name__].__class__ = _Callable
