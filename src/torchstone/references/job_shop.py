"""Job shops in plain loops: the network job by job, and schedules operation by operation."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase


class PlainL2D(nn.Module):
    """L2D's network in plain products, one job and one head at a time."""

    def __init__(self, ours: Any, heads: int):
        super().__init__()
        self.heads = heads
        self.names = [name for name, _ in ours.named_parameters()]
        self.tensors = nn.ParameterList(p.detach().clone() for p in ours.parameters())

    def forward(self, x: Tensor, is_open: Tensor | None = None) -> Tensor:
        p = dict(zip(self.names, self.tensors, strict=True))

        def linear(name: str, h: Tensor) -> Tensor:
            return p[f"{name}.weight"] @ h + p[f"{name}.bias"]

        rows = []
        for number, shop in enumerate(x):
            jobs = range(len(shop))
            open_jobs = [j for j in jobs if is_open is None or bool(is_open[number, j])]
            h = [linear("embed.2", torch.relu(linear("embed.0", job))) for job in shop]
            triples = [linear("attention_in", each).chunk(3) for each in h]
            width = len(h[0]) // self.heads
            mixed = []
            for a in jobs:
                parts = []
                for head in range(self.heads):
                    own = slice(head * width, (head + 1) * width)
                    scores = [(triples[a][0][own] * triples[b][1][own]).sum() for b in open_jobs]
                    weight = torch.softmax(torch.stack(scores) / math.sqrt(width), 0)
                    pairs = zip(weight, open_jobs, strict=True)
                    parts.append(torch.stack([w * triples[b][2][own] for w, b in pairs]).sum(0))
                mixed.append(h[a] + linear("attention_out", torch.cat(parts)))
            h = [each + linear("mlp.2", torch.relu(linear("mlp.0", each))) for each in mixed]
            mean = torch.stack([h[j] for j in open_jobs]).mean(0)
            scored = [torch.relu(linear("score.0", torch.cat([each, mean]))) for each in h]
            rows.append(torch.cat([linear("score.2", each) for each in scored]))
        return torch.stack(rows)


def l2d_cases(ours: Any, seed: int = 0) -> Iterator[ParityCase]:
    for jobs, hidden, closed in ((4, 16, 0), (1, 8, 0), (6, 16, 2)):
        torch.manual_seed(seed)
        model = ours(hidden).double()
        x = torch.randn(3, jobs, model.embed[0].in_features, dtype=torch.double)
        inputs: Any = x
        if closed:
            is_open = torch.ones(3, jobs, dtype=torch.bool)
            is_open[torch.arange(3), torch.tensor([0, jobs - 1, 1])] = False
            is_open[1, 2] = False
            inputs = (x, is_open)
        label = f"{jobs} jobs, {closed} of them closed"
        yield ParityCase(model, PlainL2D(model, 4), inputs, optimizer=torch.optim.AdamW, label=label)


def plain_schedule(
    machine: Sequence[Sequence[int]], duration: Sequence[Sequence[int]], order: Sequence[int]
) -> list[list[int]]:
    """Starts of operations that are dispatched in an order of jobs: as soon as job and machine are free."""
    next_operation, job_ready = [0] * len(machine), [0] * len(machine)
    machine_ready = [0] * len(machine[0])
    start = [[0] * len(row) for row in machine]
    for job in order:
        k = next_operation[job]
        m = machine[job][k]
        start[job][k] = max(job_ready[job], machine_ready[m])
        job_ready[job] = machine_ready[m] = start[job][k] + duration[job][k]
        next_operation[job] += 1
    return start


def plain_non_delay(
    machine: Sequence[Sequence[int]], duration: Sequence[Sequence[int]], priority: Callable[[int, int], float]
) -> int:
    """The makespan of a rule: of the jobs that can begin first that of the highest priority, of equal ones
    the first.

    Args:
        priority: of a job and the number of its next operation.
    """
    jobs, count = range(len(machine)), len(machine[0])
    next_operation, job_ready, machine_ready = [0] * len(machine), [0] * len(machine), [0] * count
    for _ in range(len(machine) * count):
        earliest = {
            j: max(job_ready[j], machine_ready[machine[j][next_operation[j]]])
            for j in jobs
            if next_operation[j] < count
        }
        first = [j for j in earliest if earliest[j] == min(earliest.values())]
        job = max(first, key=lambda j: (priority(j, next_operation[j]), -j))
        k = next_operation[job]
        end = earliest[job] + duration[job][k]
        job_ready[job] = machine_ready[machine[job][k]] = end
        next_operation[job] += 1
    return max(job_ready)
