"""Data-parallel training under `torchrun`, through torch's own distributed package.

One process a device. Streams give each process its share of the joint batch, `replicate` averages
the gradients, and only the first process writes. Without torchrun every function here is a no-op.
"""

import contextlib
import os
from collections.abc import Generator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """This process's number, also before they have joined and after they left; 0 without torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes share the work; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share() -> dict[str, Any]:
    """This process's `rank` and the `world_size`, as batches take them."""
    return {"rank": rank(), "world_size": world_size()}


@contextlib.contextmanager
def process_group(device: torch.device) -> Generator[None]:
    """Join the processes that `torchrun` started, if it did, and leave them afterwards."""
    ours = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        if ours:
            dist.destroy_process_group()


def replicate(model: nn.Module) -> nn.Module:
    """`model` as the loss should call it: with gradients averaged over processes, if there are several."""
    return DistributedDataParallel(model) if world_size() > 1 else model


def gather(value: object) -> list:
    """Every process's `value`, in order of rank. All processes must call it."""
    if world_size() == 1:
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class _GatherRows(torch.autograd.Function):
    """Every process's rows, one below the other; on the way back each process gets the sum of all gradients
    of its own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        sizes = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
        dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
        counts = torch.cat(sizes).tolist()
        ctx.span = slice(sum(counts[: rank()]), sum(counts[: rank() + 1]))
        parts = [rows.new_empty(count, *rows.shape[1:]) for count in counts]
        if len(set(counts)) == 1:
            dist.all_gather(parts, rows.contiguous())
        else:  # gloo gathers only what is of one size
            for source, part in enumerate(parts):
                dist.broadcast(part.copy_(rows) if source == rank() else part, source)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.span]


def gather_rows(rows: Shaped[Tensor, "rows *shape"]) -> Shaped[Tensor, "all_rows *shape"]:
    """Every process's rows in order of rank, with gradients: a loss of one process that uses another's rows
    reaches that one's weights. All processes must call it, and go back through it."""
    gathered: Any = _GatherRows.apply(rows) if world_size() > 1 else rows
    return gathered


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()
