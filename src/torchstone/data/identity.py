"""The identity of data: what a reader read, by content, so that other data are never taken for the same.

A reader is marked with `identified`. Whoever wants to know what is read listens:

    with identity.listen() as heard:
        data = load_images("photos", size=32, channels=1)
    heard.sources   # [{"name": "photos", "splits": {"train": {"count": 480, "digest": "5f0c…"}, …}}]

The digest is of the examples of a split, in order, with their labels: not of paths, dates or packaging. A
folder, a copy of it and its zip file are one identity; a file more, a label or a value changed is another.
"""

import contextlib
import functools
import hashlib
import heapq
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "val", "test")
SKETCH = 256  # training examples with the least digests, by which they are found in other data
WIDTH = 8  # bytes of an example's digest
ROWS = 200_000  # a table of more has one digest in all, and is not found in other data
LINE = 40  # characters of a line that a text is found by
MEANING = ("classes", "columns", "features")  # attributes that say what the numbers of an example mean

Splits = Mapping[str, Iterable[Any]]


class OtherData(Exception):
    """What was read is not what was expected; `found` is its identity."""

    def __init__(self, found: dict):
        super().__init__(found["name"])
        self.found = found


@dataclass
class Heard:
    """What was read while listening: `sources` in order, and of `known` training examples how many again."""

    expected: list[dict] | None = None
    known: frozenset[str] = frozenset()
    sources: list[dict] = field(default_factory=list)
    repeated: set[str] = field(default_factory=set)

    def hear(self, found: dict, repeated: set[str]) -> None:
        self.sources.append(found)
        self.repeated |= repeated
        if self.expected is not None and not any(same(found, each) for each in self.expected):
            raise OtherData(found)


_listening: ContextVar[Heard | None] = ContextVar("listening", default=None)


@contextlib.contextmanager
def listen(expected: list[dict] | None = None, known: Iterable[str] = ()) -> Generator[Heard]:
    """Hear what is read inside.

    Args:
        expected: identities; anything else that is read raises `OtherData`.
        known: digests of examples to look for, such as `sketch_of`.
    """
    heard = Heard(expected, frozenset(known))
    token = _listening.set(heard)
    try:
        yield heard
    finally:
        _listening.reset(token)


def identified(split: Callable[[Any], Splits] | None = None, unit: str = "examples"):
    """Mark a reader, a function of a specification that returns a data set with a `name`.

    Args:
        split: the examples of each split of what it returns; by default its `train`, `val` and `test`. A
            text counts in characters.
        unit: what is counted.
    """

    def mark(reader: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(reader)
        def read(spec: str | Path, *args: Any, **kwargs: Any) -> Any:
            data = reader(spec, *args, **kwargs)
            if _listening.get() is not None:
                splits = {each: getattr(data, each) for each in SPLITS} if split is None else split(data)
                about = {key: list(getattr(data, key)) for key in MEANING if hasattr(data, key)}
                record(str(spec), splits, unit=unit, about=about)
            return data

        return read

    return mark


def record(
    name: str,
    splits: Splits = MappingProxyType({}),
    *,
    unit: str = "examples",
    about: Any = None,
    environment: Mapping[str, Any] | None = None,
) -> None:
    """Tell whoever listens that this was read; without splits (an environment, or what is generated) it is
    known by its name, and by what else is known of an environment.

    Args:
        about: what gives the examples their meaning, such as the names of classes.
        environment: JSON values by name.
    """
    heard = _listening.get()
    if heard is None:
        return
    found: dict[str, Any] = {"name": name, "unit": unit, "about": digest(about).hex(), "splits": {}}
    if environment is not None:
        found["environment"] = dict(environment)
    known, repeated = {bytes.fromhex(each) for each in heard.known}, set()
    for split, examples in splits.items():
        total, count, least = hashlib.blake2b(digest_size=16), 0, set()
        is_sketched, is_text = split == "train" or bool(known), isinstance(examples, str)
        for each in _each(examples):
            own = digest(each)
            total.update(own)
            count += 1
            if not is_sketched or (is_text and len(each) < LINE):  # many texts have a short line
                continue
            if own in known:
                repeated.add(own)
            least.add(own)
            if len(least) > 64 * SKETCH:
                least = set(heapq.nsmallest(SKETCH, least))
        count = len(examples) if isinstance(examples, str | Tensor) else count
        found["splits"][split] = {"count": count, "digest": total.hexdigest()}
        if split == "train":
            found["sketch"] = [own.hex() for own in heapq.nsmallest(SKETCH, least)]
    heard.hear(found, {own.hex() for own in repeated})


def _each(examples: Iterable[Any]) -> Iterable[Any]:
    """The examples one by one: of a text its lines, of a tensor its rows."""
    if isinstance(examples, str):
        return examples.splitlines(keepends=True)
    if isinstance(examples, Tensor):
        array = examples.cpu().contiguous().numpy()
        return array if len(array) <= ROWS else [array]
    return examples


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two identities are of the same examples in the same splits, whatever their names."""
    if not a["splits"] or not b["splits"]:  # an environment, or what is generated
        is_alike = a["name"] == b["name"] and not a["splits"] and not b["splits"]
        return is_alike and not _environment_changes(a, b)
    return a["splits"] == b["splits"] and a["about"] == b["about"]


def _environment_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What is not the same of two environments of one name, in words; earlier versions knew the name only."""
    before, now = a.get("environment"), b.get("environment")
    if before is None or now is None:
        return []
    changes = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            names = [each for each in dict.fromkeys([*old, *new]) if old.get(each) != new.get(each)]
            changes += [f"its {key} {each} has changed" for each in names]
        elif old != new:
            changes.append(f"its {key} was {old} and is now {new}")
    return changes


def differences(before: list[dict], now: list[dict]) -> str | None:
    """What `now` has not in common with `before`, in words; None if they are the same."""
    for old, new in itertools.zip_longest(before, now):
        if old is None or new is None:
            return f"{(old or new)['name']} is read {'no more' if new is None else 'too'}"
        if same(old, new):
            continue
        changes = [
            f"{split} of {_size(old, split)} is now {_size(new, split)}"
            if _size(old, split) != _size(new, split)
            else f"{split} has other content"
            for split in dict.fromkeys([*old["splits"], *new["splits"]])
            if old["splits"].get(split) != new["splits"].get(split)
        ]
        if not changes and old["name"] == new["name"]:
            changes = _environment_changes(old, new)
        if not changes:
            changes = ["its classes or columns are others"] if old["splits"] else [f"it was {old['name']}"]
        return f"{new['name']}: {', '.join(changes)}"
    return None


def _size(identity: dict, split: str) -> str:
    return f"{identity['splits'].get(split, {}).get('count', 0):,} {identity['unit']}"


def counted(identity: Mapping[str, Any], *splits: str) -> str:
    """How many there are in splits (without names: in all), such as `1,000 images`."""
    chosen = splits or tuple(identity["splits"])
    total = sum(identity["splits"].get(split, {}).get("count", 0) for split in chosen)
    return f"{total:,} {identity['unit']}"


def sketch_of(identities: Iterable[Mapping[str, Any]]) -> list[str]:
    """Digests of some training examples."""
    return [each for identity in identities for each in identity.get("sketch", ())]


def digest(item: Any) -> bytes:
    """A digest of a value by its content: numbers, texts, arrays, tensors, files, and containers of them."""
    return hashlib.blake2b(b"".join(_parts(item)), digest_size=WIDTH).digest()


def _parts(item: Any) -> Iterable[bytes]:
    """What the digest is of. An undecoded example and its label, of which there are many, in one piece."""
    if type(item) is tuple and len(item) == 2 and type(item[0]) is bytes and type(item[1]) is int:
        return b"l2:b%d:" % len(item[0]), item[0], b"%d" % item[1]
    return _parts_of_any(item)


def _parts_of_any(item: Any) -> Iterator[bytes]:
    if isinstance(item, Tensor):
        item = (
            item.detach().cpu().contiguous().numpy() if item.dtype != torch.bfloat16 else item.float().numpy()
        )
    if isinstance(item, bytes | bytearray | memoryview):
        yield b"b%d:" % len(item)
        yield item
    elif isinstance(item, str):
        text = item.encode("utf-8", "surrogatepass")
        yield b"s%d:" % len(text)
        yield text
    elif isinstance(item, np.ndarray):
        yield f"a{item.dtype.str}{item.shape}:".encode()
        yield np.ascontiguousarray(item).tobytes()
    elif isinstance(item, Path):
        yield from _parts(item.read_bytes())
    elif isinstance(item, Mapping):
        yield b"m%d:" % len(item)
        for key, value in item.items():
            yield from _parts(key)
            yield from _parts(value)
    elif isinstance(item, list | tuple):
        yield b"l%d:" % len(item)
        for each in item:
            yield from _parts(each)
    elif item is None or isinstance(item, bool | int | float | np.generic):
        yield repr(item.item() if isinstance(item, np.generic) else item).encode()
    else:
        raise TypeError(f"an example holds a {type(item).__name__}, which has no identity")
