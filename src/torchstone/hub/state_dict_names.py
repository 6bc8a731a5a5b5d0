"""Parameter names of other libraries to ours and back."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def rename_keys(tensors: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Apply every rule (pattern, replacement) in turn to every name."""
    new: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        new[name] = tensor
    return new


def fuse_qkv(tensors: Mapping[str, Tensor], parts: str = "qkv") -> dict[str, Tensor]:
    """Concatenate `….q.…`, `….k.…`, `….v.…` to `….qkv.…`, unless one is missing."""
    new = dict(tensors)
    for name in tensors:
        if f".{parts[0]}." in name:
            names = [name.replace(f".{parts[0]}.", f".{part}.") for part in parts]
            if all(each in tensors for each in names):
                new[name.replace(f".{parts[0]}.", f".{parts}.")] = torch.cat(
                    [new.pop(each) for each in names]
                )
    return new


def split_qkv(tensors: Mapping[str, Tensor], parts: str = "qkv") -> dict[str, Tensor]:
    """The reverse of `fused`."""
    new: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if f".{parts}." not in name:
            new[name] = tensor
            continue
        for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
            new[name.replace(f".{parts}.", f".{part}.")] = piece.contiguous()
    return new
