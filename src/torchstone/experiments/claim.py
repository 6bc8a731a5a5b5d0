"""A claim and its verdict.

A module of `claims/` holds four things:

    CLAIM            what is claimed, by whom, how it is tested, and what must come out the other way
    measure(seed)    the raw numbers of one seed: JSON, the same for every run with that seed
    judge(rows)      the verdict, from the numbers of all seeds and nothing else
    draw(rows)       the figure

The verdict is computed anew from the numbers wherever it is shown, so that neither can be changed alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torchstone.metrics.paired import margin, p_value

Row = dict[str, Any]  # of one seed
Outcome = Literal["holds", "holds only when", "not seen here"]

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Claim:
    """What is put to the test.

    Args:
        name: as it is typed.
        statement: the claim, in a sentence.
        source: the paper it goes back to.
        experiment: what is measured, on which data, for how long.
        control: what must come out the other way if the experiment can tell anything; or where the claim is
            known to depend on more than it says.
        minutes: of one core, for all seeds.
    """

    name: str
    statement: str
    source: str
    experiment: str
    control: str
    minutes: float
    seeds: tuple[int, ...] = (0, 1, 2)


class Difference(NamedTuple):
    """A mean of differences, each of one seed."""

    name: str
    mean: float
    margin: float | None  # half of the 95 % interval; None of a single seed
    p: float | None  # of Student's t, two-sided
    count: int

    @property
    def is_above_zero(self) -> bool:
        return self.margin is not None and self.mean - self.margin > 0

    @property
    def is_below_zero(self) -> bool:
        return self.margin is not None and self.mean + self.margin < 0

    def text(self) -> str:
        if self.margin is None or self.p is None:
            return f"{self.name}: {self.mean:+.4g} (one seed: no interval)"
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        return f"{self.name}: {self.mean:+.4g} ± {self.margin:.2g} ({self.count} seeds, {p})"


@dataclass(frozen=True)
class Verdict:
    """Whether the claim holds, the sentence that says it with its figures, and the tests behind it."""

    outcome: Outcome
    finding: str
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.outcome}: {self.finding}"


def paired(name: str, first: Sequence[float], second: Sequence[float]) -> Difference:
    """`first` − `second`, of the same seeds in the same order.

    Raises:
        ValueError: they are not as many.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / len(differences)
    return Difference(name, mean, margin(differences), p_value(differences), len(differences))
