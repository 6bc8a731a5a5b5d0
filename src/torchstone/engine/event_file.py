"""TensorBoard's event files: scalars, written without TensorBoard, whose import takes longer than a short
run.

A file is a sequence of TFRecords: the length (uint64), its masked CRC-32C, the bytes, and theirs. The bytes
are a protocol buffer `Event`: wall_time = 1 (double), step = 2, file_version = 3 (string), summary = 5 (of
value = 1, of tag = 1 and simple_value = 2), session_log = 7 (of status = 1; START is 1).
"""

import os
import socket
import struct
import time
from pathlib import Path


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _table()


def crc32c(data: bytes) -> int:
    """The CRC-32 of Castagnoli's polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class EventFile:
    """One file of events in `folder`.

    Args:
        purge_step: what earlier files hold from this step on does not count; None for all of it.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        number = sum(1 for _ in folder.glob("events.out.tfevents.*"))
        self.file = (folder / f"{name}.{number}").open("wb")
        self._write(_bytes(3, b"brain.Event:2"))
        if purge_step is not None:
            self._write(_varint(2, purge_step) + _bytes(7, _varint(1, 1)))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        scalar = _bytes(1, tag.encode()) + struct.pack("<Bf", 2 << 3 | 5, value)
        self._write(_varint(2, step) + _bytes(5, _bytes(1, scalar)))

    def _write(self, content: bytes) -> None:
        event = struct.pack("<Bd", 1 << 3 | 1, time.time()) + content
        length = struct.pack("<Q", len(event))
        self.file.write(length + _masked(length) + event + _masked(event))

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(value)) + value
