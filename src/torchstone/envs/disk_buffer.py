"""Incremental checkpoints of large replay buffers: frames in chunks in the run folder, each written once."""

import hashlib
import os
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone.errors import BadInput, NotSaved
from torchstone.files import atomic_write

FOLDER = "memory"  # in a run folder
SPILL_BYTES = 2**26  # a buffer up to this size is saved inside the checkpoint
CHUNK_BYTES = 2**25  # approximate size of a chunk


class DiskBuffer:
    """The slots of a ring buffer on disk, numbered from the first one ever written, `chunk_size` to a file.

    A chunk is written when its last slot is final, before the checkpoint that lists it and its digest. It is
    deleted when neither that checkpoint nor the two before it reach so far back. So a process killed at any
    time leaves a checkpoint with all its chunks, and the checkpoint before that too.

    Args:
        ring: `(slots × envs, …)`, the envs of a slot side by side.
        folder: the run folder.
    """

    def __init__(self, ring: Tensor, num_envs: int, folder: Path):
        self.ring, self.folder = ring.unflatten(0, (-1, num_envs)), folder
        self.slots = len(self.ring)
        self.chunk_size = max(1, min(CHUNK_BYTES // self.ring[0].nbytes, self.slots // 2))
        self.digests: dict[int, str] = {}
        self.saved: deque[int] = deque(maxlen=2)  # slots written by the last checkpoints

    def write(self, num_written: int) -> dict[str, Any]:
        """Write the full chunks before slot `num_written`; the state holds the slots after them, up to it.

        Raises:
            NotSaved: the system refuses to write.
        """
        folder, complete = self.folder / FOLDER, num_written // self.chunk_size
        # the oldest slot in the ring is num_written + 1 - slots: slot num_written replaced the one before
        held = range(max(num_written + 1 - self.slots, 0) // self.chunk_size, complete)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            missing = [number for number in held if number not in self.digests]
            for number in missing:
                self.digests[number] = self._write_chunk(folder / chunk_name(number), number)
            if missing and os.name != "nt":  # make the file names durable too
                handle = os.open(folder, os.O_RDONLY)
                os.fsync(handle), os.close(handle)
            oldest = self.saved[0] if len(self.saved) == 2 else 0
            first_needed = max(oldest + 1 - self.slots, 0) // self.chunk_size
            for file in folder.glob("*.bin"):
                if file.stem.isdigit() and int(file.stem) < first_needed:
                    file.unlink(missing_ok=True)
        except OSError as error:
            message = f"could not write the replay buffer in {folder}: {error.strerror or error}"
            raise NotSaved(f"{message}; make room, then: torchstone resume {self.folder}") from error
        self.saved.append(num_written)
        self.digests = {number: self.digests[number] for number in held}
        rest = self._read_slots(complete * self.chunk_size, num_written + 1).clone()
        return {"pieces": dict(self.digests), "size": self.chunk_size, "rest": rest}

    def read(self, state: dict[str, Any], num_written: int) -> None:
        """Restore the ring from what `write` returned and wrote.

        Raises:
            BadInput: a chunk is missing or altered.
        """
        self.chunk_size = state["size"]
        self.digests = dict(state["pieces"])
        self.saved.clear()
        self.saved.append(num_written)
        for number, digest in sorted(self.digests.items()):  # newer slots overwrite older ones
            file = self.folder / FOLDER / chunk_name(number)
            data = bytearray(file.read_bytes()) if file.exists() else bytearray()
            if hashlib.sha256(data).hexdigest() != digest:
                raise BadInput(f"{file}, which the checkpoint needs, is missing or altered")
            chunk = torch.frombuffer(data, dtype=self.ring.dtype).view(-1, *self.ring.shape[1:])
            self._write_slots(number * self.chunk_size, chunk)
        self._write_slots(num_written // self.chunk_size * self.chunk_size, state["rest"])

    def _read_slots(self, first: int, last: int) -> Tensor:
        return self.ring[torch.arange(first, last, device=self.ring.device) % self.slots]

    def _write_slots(self, first: int, rows: Tensor) -> None:
        slots = torch.arange(first, first + len(rows), device=self.ring.device) % self.slots
        self.ring[slots] = rows.to(self.ring.device)

    def _write_chunk(self, path: Path, number: int) -> str:
        first = number * self.chunk_size
        rows = self._read_slots(first, first + self.chunk_size)
        data = np.ascontiguousarray(rows.cpu().numpy()).tobytes()
        with atomic_write(path) as new, new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return hashlib.sha256(data).hexdigest()


def chunk_name(number: int) -> str:
    return f"{number:08d}.bin"
