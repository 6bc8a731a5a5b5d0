"""Law 4's two halves: what is compared in `make test`, and what stands for the same code in `make test-all`."""

import contextlib
from collections.abc import Generator, Hashable, Iterator
from typing import Any, NamedTuple

import torch
from blocks import blocks, cover
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from torchstone.parts.facts import ParityCase, count_parameters

LARGE = 200_000  # parameters: smaller networks are always compared


class NoNumbers(Exception):
    """A case that is to be compared was made of one that was passed over."""


class Description(NamedTuple):
    """Of one case: what it runs through, and its size."""

    elements: set[Hashable]
    size: tuple[int, bool]


def described(module: Any) -> list[Description | None]:
    """Every case of a system's `reference`, made without numbers; None for small ones."""
    with _on_meta():
        return [_describe(ParityCase(*case)) for case in module.reference()]


def _describe(case: ParityCase) -> Description | None:
    ours = case.ours
    if not isinstance(ours, nn.Module) or count_parameters(ours) <= LARGE:
        return None
    elements = {(ours.training, each) for each in (type(case.theirs), *blocks(ours))}
    is_double = next(ours.parameters()).dtype == torch.float64
    return Description(elements, (count_parameters(ours), not is_double))


def left_to_sweep(cases: list[Description | None]) -> set[int]:
    """The numbers of the cases that run through no code but that of smaller ones."""
    large = {number: case for number, case in enumerate(cases) if case is not None}
    stay = cover(large, lambda number: large[number].elements, lambda number: large[number].size)
    return large.keys() - set(stay)


def chosen(module: Any, swept: set[int]) -> Iterator[ParityCase]:
    """The cases of `reference` but for those left to the sweep, which are passed over without numbers.

    Steps of the optimizer are compared of small networks, and of one large one: where gradients are equal they
    say little more, and take longer than all else.

    Raises:
        NoNumbers: one is made of what was passed over.
    """
    cases, number, has_steps = iter(module.reference()), 0, False
    while True:
        # what the first one is made with may be there for all
        if number and number in swept:
            with _on_meta(), NumbersLeftOut():
                case = next(cases, None)
        else:
            case = next(cases, None)
        if case is None:
            return
        if number not in swept:
            case = ParityCase(*case)
            if any(isinstance(each, Tensor) and each.is_meta for each in _tensors(case)):
                raise NoNumbers(f"case {number + 1}")
            if isinstance(case.ours, nn.Module) and count_parameters(case.ours) > LARGE:
                optimizer = None if has_steps else case.optimizer
                has_steps = has_steps or optimizer is not None
                case = case._replace(optimizer=optimizer)
            yield case
        number += 1


class NumbersLeftOut(TorchFunctionMode):
    """Tensors that have numbers are taken for their shapes alone, so that they go together with those without."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = tree_map_only(Tensor, self._shape, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _shape(self, tensor: Tensor) -> Tensor:
        with DisableTorchFunction():
            return tensor if tensor.is_meta or isinstance(tensor, nn.Parameter) else tensor.to("meta")


class NormsPassedOver(TorchFunctionMode):
    """Batch norm without numbers is its input: torch takes it apart into dozens of calls, each of them slow."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (nn.functional.batch_norm, torch.batch_norm) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _on_meta() -> Generator[None, None, None]:
    """On the meta device, and staying there."""
    plain = nn.Module.to_empty
    nn.Module.to_empty = lambda self, **_: self
    try:
        with torch.device("meta"), NormsPassedOver():
            yield
    finally:
        nn.Module.to_empty = plain


def _tensors(case: ParityCase) -> Iterator[Any]:
    for each in (case.ours, case.theirs):
        if isinstance(each, nn.Module):
            yield from each.parameters()
            yield from each.buffers()
    yield from tree_leaves(case.inputs)
