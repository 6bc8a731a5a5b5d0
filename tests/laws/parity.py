"""Law 4's two halves: what is compared in `make test`, and what stands for the same code in `make test-all`.

`swept_cases.json` holds which cases of a reference are left to `make test-all`; `python tests/laws/parity.py`
writes it anew.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Generator, Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from blocks import blocks, cover
from torch import nn

from torchstone import systems
from torchstone.parts.facts import ParityCase, count_parameters

LARGE = 200_000  # parameters: smaller networks are always compared
TABLE = Path(__file__).with_name("swept_cases.json")


class Description(NamedTuple):
    """Of one case: what it runs through, and its size."""

    elements: set[Hashable]
    size: tuple[int, bool]


class Swept(NamedTuple):
    """Of one system: how many cases its reference has, and the numbers of those that `make test` leaves out."""

    cases: int
    swept: list[int]


def table() -> dict[str, Swept]:
    """By the name of the system."""
    return {name: Swept(**each) for name, each in json.loads(TABLE.read_text()).items()}


def described(module: Any) -> list[Description | None]:
    """Every case of a system's `reference`, made without numbers; None for small ones."""
    with _on_meta():
        return [_describe(made(case)) for case in module.reference()]


def made(case: Any) -> ParityCase:
    return ParityCase(*(case() if callable(case) else case))


def _describe(case: ParityCase) -> Description | None:
    ours = case.ours
    if not isinstance(ours, nn.Module) or count_parameters(ours) <= LARGE:
        return None
    elements = {(ours.training, each) for each in (type(case.theirs), *blocks(ours))}
    is_double = next(ours.parameters()).dtype == torch.float64
    return Description(elements, (count_parameters(ours), not is_double))


def left_to_sweep(module: Any) -> Swept:
    """The cases that run through no code but that of smaller ones."""
    try:
        cases = described(module)
    except (RuntimeError, NotImplementedError) as error:
        print(f"{module.__name__}: it looks at numbers in the making, so every case is compared ({error})")
        return Swept(0, [])
    large = {number: case for number, case in enumerate(cases) if case is not None}
    stay = cover(large, lambda number: large[number].elements, lambda number: large[number].size)
    return Swept(len(cases), sorted(large.keys() - set(stay)))


def chosen(module: Any, swept: Swept | None) -> Iterator[Callable[[], ParityCase]]:
    """The cases of `reference` but for those left to the sweep, which are not made; None where that is no case.

    Steps of the optimizer are compared of one small network and of one large one: where gradients are equal
    they say little more, and take longer than all else. Of large networks in evaluation mode only the output is
    compared, where another one's gradient is.

    Raises:
        AssertionError: the reference has another number of cases than the table.
    """
    number, stepped, differentiated = 0, set(), set()

    def case_of(case: Any) -> ParityCase:
        case = made(case)
        if not isinstance(case.ours, nn.Module) or not isinstance(case.theirs, nn.Module):
            return case
        is_large = count_parameters(case.ours) > LARGE
        if is_large and not case.ours.training and differentiated:
            return case._replace(ours=_output_of(case.ours), theirs=_output_of(case.theirs))
        differentiated.update([is_large] if is_large else [])
        if case.optimizer is not None and is_large in stepped:
            return case._replace(optimizer=None)
        stepped.update([is_large] if case.optimizer is not None else [])
        return case

    for case in module.reference():
        if swept is None or number not in swept.swept:
            yield lambda case=case: case_of(case)
        number += 1
    stale = swept and (
        f"{TABLE.name} is of {swept.cases} cases, the reference has {number}: run python tests/laws/parity.py"
    )
    assert swept is None or number == swept.cases, stale


def _output_of(network: nn.Module) -> Callable[..., Any]:
    """The network as a function: it has no parameters whose gradients could be compared."""

    def output(*inputs: Any) -> Any:
        with torch.no_grad():
            return network(*inputs)

    output.__name__ = type(network).__name__
    return output


@contextlib.contextmanager
def _on_meta() -> Generator[None, None, None]:
    """On the meta device, and staying there."""
    plain = nn.Module.to_empty
    nn.Module.to_empty = lambda self, **_: self
    try:
        with torch.device("meta"):
            yield
    finally:
        nn.Module.to_empty = plain


def measured() -> dict[str, Swept]:
    """The table as it should be."""
    found = {entry.name: left_to_sweep(entry.module()) for entry in systems.CATALOGUE}
    return {name: each for name, each in found.items() if each.swept}


if __name__ == "__main__":
    lines = (f"{json.dumps(name)}: {json.dumps(each._asdict())}" for name, each in measured().items())
    TABLE.write_text("{\n  " + ",\n  ".join(lines) + "\n}\n")
    sys.stdout.write(TABLE.read_text())
