"""A ring too large to be written with every checkpoint: its frames beside them, in pieces written once."""

import hashlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone.errors import BadInput, NotSaved

FOLDER = "memory"  # of a run folder
LARGE = 2**26  # bytes of a ring that are still written whole
PIECE = 2**25  # bytes, more or less


class Spilled:
    """The slots of a ring, numbered from the first one ever written, `size` of them to a file.

    A piece is written when its last slot is settled, before the checkpoint that names it and its digest;
    it is let go when neither that checkpoint nor the two before it reach so far back. So a process killed
    at any moment leaves a checkpoint with all its pieces, and the checkpoint before that too.

    Args:
        ring: `(slots × worlds, …)`, worlds side by side.
        where: the run's folder, or None while there is none.
    """

    def __init__(self, ring: Tensor, worlds: int, where: Callable[[], Path | None]):
        self.ring, self.where = ring.unflatten(0, (-1, worlds)), where
        self.slots = len(self.ring)
        self.size = max(1, min(PIECE // self.ring[0].nbytes, self.slots // 2))
        self.digests: dict[int, str] = {}
        self.saved: deque[int] = deque(maxlen=2)  # slots lived through by the last checkpoints

    def write(self, lived: int) -> dict[str, Any]:
        """Settle slots before `lived`; what no piece has, and the slot `lived` itself, is in the state.

        Raises:
            NotSaved: the system refuses to write.
        """
        root, done = self.where(), lived // self.size
        assert root is not None
        # the oldest slot in the ring is lived + 1 - slots: `lived` has taken the place of the one before
        held = range(max(lived + 1 - self.slots, 0) // self.size, done)
        try:
            (root / FOLDER).mkdir(parents=True, exist_ok=True)
            lacking = [number for number in held if number not in self.digests]
            for number in lacking:
                self.digests[number] = self._put(root / FOLDER / name(number), number)
            if lacking and os.name != "nt":  # their names too
                handle = os.open(root / FOLDER, os.O_RDONLY)
                os.fsync(handle), os.close(handle)
            oldest = self.saved[0] if len(self.saved) == 2 else 0
            reach = max(oldest + 1 - self.slots, 0) // self.size
            for file in (root / FOLDER).glob("*.bin"):
                if int(file.stem) < reach:
                    file.unlink(missing_ok=True)
        except OSError as error:
            said = f"could not write the memory in {root / FOLDER}: {error.strerror or error}"
            raise NotSaved(f"{said}; make room, then: torchstone resume {root}") from error
        self.saved.append(lived)
        self.digests = {number: self.digests[number] for number in held}
        rest = self._at(done * self.size, lived + 1).clone()
        return {"pieces": dict(self.digests), "size": self.size, "rest": rest}

    def read(self, state: dict[str, Any], lived: int) -> None:
        """Put back what `write` kept.

        Raises:
            BadInput: a piece is missing or altered.
        """
        root, self.size = self.where(), state["size"]
        self.digests = dict(state["pieces"])
        self.saved.clear()
        self.saved.append(lived)
        for number, digest in sorted(self.digests.items()):  # the newer over the older
            file = (root or Path()) / FOLDER / name(number)
            data = bytearray(file.read_bytes()) if file.exists() else bytearray()
            if hashlib.sha256(data).hexdigest() != digest:
                raise BadInput(f"{file}, which the checkpoint needs, is missing or altered")
            piece = torch.frombuffer(data, dtype=self.ring.dtype).view(-1, *self.ring.shape[1:])
            self._set(number * self.size, piece)
        self._set(lived // self.size * self.size, state["rest"])

    def _at(self, first: int, last: int) -> Tensor:
        return self.ring[torch.arange(first, last, device=self.ring.device) % self.slots]

    def _set(self, first: int, rows: Tensor) -> None:
        slots = torch.arange(first, first + len(rows), device=self.ring.device) % self.slots
        self.ring[slots] = rows.to(self.ring.device)

    def _put(self, file: Path, number: int) -> str:
        first = number * self.size
        data = np.ascontiguousarray(self._at(first, first + self.size).cpu().numpy()).tobytes()
        new = file.with_suffix(".new")
        with new.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(new, file)
        return hashlib.sha256(data).hexdigest()


def name(number: int) -> str:
    return f"{number:08d}.bin"
