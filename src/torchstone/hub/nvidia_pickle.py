"""Networks in the pickles of NVIDIA's stylegan2-ada-pytorch, read without any class or code of theirs.

Such a file is a dictionary of networks. Each is written as a call of `_reconstruct_persistent_obj`, whose
argument holds the source code of the network's class and its attributes; unpickled as intended, that code is
executed. Here a pickle may name what `RECORDS` lists, and nothing else; each of these names stands for an
inert record or a plain container, the source code is not looked at, and tensors are made afterwards, out of
the records of the one network that is wanted.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from torchstone.errors import BadInput, first_line
from torchstone.files import DAMAGED

WANTED = "G_ema"  # the averaged generator
LEGACY = "dnnlib.tflib"  # of the TensorFlow releases
CONVERT = (
    "in a process that you trust with it, load it by the authors' code and save G_ema.state_dict() by "
    "torch.save, then give that file"
)


class Network(NamedTuple):
    """The attributes of a module, by name."""

    attributes: Any


class Storage(NamedTuple):
    """The bytes of a storage as torch wrote them."""

    content: Any


class Strided(NamedTuple):
    """A tensor: its storage, and where its numbers lie there."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class Number(NamedTuple):
    """A number of NumPy, or its type: none is of use here."""


class Maker:
    """What a name in a pickle stands for. It has no attribute that a pickle could set."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]):
        object.__setattr__(self, "make", make)

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError("it sets an attribute of a function")


class NumberType:
    """A type of NumPy's numbers, whose state is passed over."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


RECORDS: dict[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Maker(lambda meta: Network(meta["state"])),
    ("torch._utils", "_rebuild_parameter"): Maker(lambda data, *_: data),
    ("torch._utils", "_rebuild_tensor_v2"): Maker(lambda *a: Strided(*a[:4])),
    ("torch.storage", "_load_from_bytes"): Maker(Storage),
    ("numpy.core.multiarray", "scalar"): Maker(lambda *_: Number()),
    ("numpy._core.multiarray", "scalar"): Maker(lambda *_: Number()),
    ("numpy", "dtype"): Maker(lambda *_: NumberType()),
    ("dnnlib.util", "EasyDict"): dict,
    ("collections", "OrderedDict"): dict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


class RecordUnpickler(pickle.Unpickler):
    """An unpickler of plain containers and records."""

    def __init__(self, content: io.BufferedIOBase, file: Path):
        super().__init__(content)
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECORDS:
            return RECORDS[module, name]
        if module.startswith(LEGACY):
            raise BadInput(
                f"{self.file} is of the TensorFlow release: convert it by legacy.py of the authors' "
                "stylegan2-ada-pytorch"
            )
        raise BadInput(f"{self.file} holds {module}.{name}, which is not loaded here: {CONVERT}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise BadInput(f"{self.file} refers to something outside of it: {CONVERT}")


def read_nvidia_pickle(file: Path, wanted: str = WANTED) -> dict[str, Tensor]:
    """The parameters and buffers of the network `wanted`, by their names in the authors' code.

    Raises:
        BadInput: the file is damaged, names anything but tensors and networks, or has no such network.
    """
    try:
        with file.open("rb") as opened:
            content = RecordUnpickler(opened, file).load()
    except (*DAMAGED, pickle.UnpicklingError) as error:
        raise BadInput(f"{file} cannot be read as the authors' pickle ({first_line(error)})") from None
    network = content.get(wanted) if isinstance(content, dict) else None
    if not isinstance(network, Network):
        names = ", ".join(k for k, v in content.items() if isinstance(v, Network)) if network else ""
        raise BadInput(f"{file} holds no network {wanted}" + (f", only {names}" if names else ""))
    try:
        return dict(_tensors(network, ""))
    except (*DAMAGED, pickle.UnpicklingError) as error:
        raise BadInput(f"{file} holds a tensor that cannot be read ({first_line(error)})") from None


def _tensors(network: Network, prefix: str, depth: int = 0) -> "list[tuple[str, Tensor]]":
    """The tensors of a module and of those inside it."""
    found: list[tuple[str, Tensor]] = []
    if depth > 20 or not isinstance(network.attributes, Mapping):
        raise ValueError("modules are nested otherwise")
    for kind in ("_parameters", "_buffers"):
        for name, record in network.attributes.get(kind, {}).items():
            if isinstance(record, Strided):
                found.append((prefix + name, _tensor(record)))
    for name, inner in network.attributes.get("_modules", {}).items():
        if isinstance(inner, Network):
            found += _tensors(inner, f"{prefix}{name}.", depth + 1)
    return found


def _tensor(record: Strided) -> Tensor:
    """The tensor itself; its numbers must lie within its storage.

    Raises:
        ValueError: they do not.
    """
    content = record.storage.content if isinstance(record.storage, Storage) else None
    sizes = (record.offset, *record.size, *record.stride)
    if not isinstance(content, bytes) or not all(type(n) is int and n >= 0 for n in sizes):
        raise ValueError("a tensor without its numbers")
    storage = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage)
    last = record.offset + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True))
    if 0 not in record.size and last >= len(flat):
        raise ValueError("a tensor larger than its storage")
    return flat.as_strided(record.size, record.stride, record.offset).clone()
