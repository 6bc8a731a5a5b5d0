"""The tests' own type checker: what it must catch, in functions and in dataclasses."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
import typechecker
from jaxtyping import Float, Int, TypeCheckError
from torch import Tensor


@typechecker.decorate
def scale(x: Float[Tensor, "b n"], weight: Float[Tensor, "n"], steps: int = 1) -> Float[Tensor, "b"]:
    return (x * weight).sum(1) if steps else x


@typechecker.decorate
def tokens(ids: list[Int[Tensor, " n"]]) -> int:
    return len(ids)


@typechecker.decorate
def rows(x: Float[Tensor, "b n"]) -> Iterator[Float[Tensor, " n"]]:
    yield from x


@typechecker.decorate
def first(x: Float[Tensor, "n b"]) -> Float[Tensor, " b"]:
    return next(rows(x))


@typechecker.decorate
def halve(number: float) -> "float":
    return str(number) if number < 0 else number / 2


@typechecker.decorate
@dataclasses.dataclass
class Pair:
    x: Float[Tensor, "n"]
    y: Float[Tensor, "n"]


FAULTS = {
    "axis": lambda: scale(torch.zeros(2, 3), torch.zeros(4)),
    "dtype": lambda: scale(torch.zeros(2, 3).long(), torch.zeros(3)),
    "result": lambda: scale(torch.zeros(2, 3), torch.zeros(3), steps=0),
    "nested": lambda: tokens([torch.zeros(3)]),
    "generator": lambda: list(rows(torch.zeros(3))),
    "plain argument": lambda: halve("1"),
    "plain result": lambda: halve(-1.0),
    "dataclass": lambda: Pair(torch.zeros(2), torch.zeros(3)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_type_checker_catches(fault):
    with pytest.raises(TypeCheckError):
        FAULTS[fault]()


def test_type_checker_keeps_axes_of_each_call_apart():
    assert scale(torch.zeros(2, 3), torch.zeros(3)).shape == (2,)
    assert scale(torch.zeros(4, 5), torch.zeros(5)).shape == (4,)
    assert tokens([torch.zeros(2).long()]) == 1
    assert first(torch.zeros(2, 3)).shape == (3,)  # n and b mean something else in what it calls
    assert halve(2) == 1.0  # an int is a float
    assert Pair(torch.zeros(2), torch.zeros(2)).x.shape == (2,)


def test_type_checker_is_on_in_the_package():
    from torchstone.parts.transformer.attention import attention

    with pytest.raises(TypeCheckError):
        attention(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4))
