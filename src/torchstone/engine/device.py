"""Which device a run uses, and in which precision it computes."""

import contextlib
import os
from pathlib import Path

import torch

from torchstone.engine.console import notify
from torchstone.errors import BadInput, did_you_mean

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU; a named device that is absent is refused.

    Under `torchrun` each process takes the CUDA device of its own number.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    kind, _, index = name.partition(":")
    if kind not in present:
        raise BadInput(f"unknown device {name!r}: {did_you_mean(kind, ['auto', *present])}")
    if not present[kind]:
        here = ", ".join(k for k, there in present.items() if there)
        raise BadInput(f"device {name!r} is not to be had on this machine (it has: {here})")
    if kind == "cuda":
        device = torch.device("cuda", int(index or os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        return device
    return torch.device(kind)


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision that is meant: `auto` is bf16 where the device's arithmetic has it, else fp32.

    Emulated it is up to 15 times slower than fp32, which is announced if bf16 was chosen by name.

    Raises:
        BadInput: an unknown name.
    """
    if precision not in (*PRECISIONS, "auto"):
        raise BadInput(f"unknown precision {precision!r}: {did_you_mean(precision, [*PRECISIONS, 'auto'])}")
    if precision == "auto":
        return "bf16" if has_bfloat16(device) else "fp32"
    if precision == "bf16" and device.type == "cpu" and not has_bfloat16(device):
        notify("this CPU has no bfloat16 arithmetic and emulates it slowly: --precision fp32 is faster here")
    return precision


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself (of Apple's, where it gains little: no)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return False


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision for forward passes: `fp32` (none), `bf16`, or `fp16` (which needs loss scaling)."""
    dtype = PRECISIONS[precision]
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def total_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes of memory of a device, of the machine or of the container that this runs in; None if unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on Windows
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # another system, or no limit
            found.append(int((Path("/sys/fs/cgroup") / file).read_text()))
    return min((each for each in found if each > 0), default=None)
