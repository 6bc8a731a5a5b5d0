"""Which device a run uses, and in which precision it computes."""

import contextlib
import os

import torch

from torchstone.errors import BadInput, nearest

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU; a named device that is absent is refused.

    Under `torchrun` each process takes the CUDA device of its own number.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    kind, _, index = name.partition(":")
    if kind not in present:
        raise BadInput(f"unknown device {name!r}: {nearest(kind, ['auto', *present])}")
    if not present[kind]:
        here = ", ".join(k for k, there in present.items() if there)
        raise BadInput(f"device {name!r} is not to be had on this machine (it has: {here})")
    if kind == "cuda":
        device = torch.device("cuda", int(index or os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        return device
    return torch.device(kind)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision for forward passes: `fp32` (none), `bf16`, or `fp16` (which needs loss scaling)."""
    if precision not in PRECISIONS:
        raise BadInput(f"unknown precision {precision!r}: {nearest(precision, PRECISIONS)}")
    dtype = PRECISIONS[precision]
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
