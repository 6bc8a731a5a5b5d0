"""Recipes are frozen dataclasses, some fields of which are dataclasses too; here they are flat.

A field of a nested dataclass goes by its own name where only one has it (`lr` of `optim`), and by its
path where several do (`optim.lr`, `discriminator_optim.lr`).
"""

import dataclasses
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

from torchstone.errors import BadInput, did_you_mean


def field_paths(recipe: Any) -> dict[str, tuple[str, ...]]:
    """Every field's name, and its path too, to that path; nested dataclasses are opened."""
    paths: dict[tuple[str, ...], None] = {}

    def collect(config: Any, prefix: tuple[str, ...]) -> None:
        for field in dataclasses.fields(config):
            value, path = getattr(config, field.name), (*prefix, field.name)
            if dataclasses.is_dataclass(value):
                collect(value, path)
            else:
                paths[path] = None

    collect(recipe, ())
    names: dict[str, tuple[str, ...]] = {".".join(path): path for path in paths}
    short: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        short.setdefault(path[-1], []).append(path)
    for name, having in short.items():
        first = min(having, key=len)
        # an outer field keeps its name; of several nested ones, that of `optim` does
        if len(having) == 1 or len(first) == 1:
            names.setdefault(name, first)
        elif ("optim", name) in having:
            names.setdefault(name, ("optim", name))
    return names


def short_name(recipe: Any, path: tuple[str, ...]) -> str:
    """The shortest name that means `path`."""
    return path[-1] if field_paths(recipe).get(path[-1]) == path else ".".join(path)


def get_field(recipe: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        recipe = getattr(recipe, name)
    return recipe


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optim": {"lr": 1}}` as `{"optim.lr": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def replace_fields(recipe: Any, fields: Mapping[str, Any]) -> Any:
    """`recipe` with fields changed, named as in `field_paths`.

    Raises:
        KeyError: there is no such field.
        BadInput: a value that the field cannot have.
    """
    paths = field_paths(recipe)
    for name, value in fields.items():
        config = get_field(recipe, paths[name][:-1])
        hint = typing.get_type_hints(type(config))[paths[name][-1]]
        recipe = _replace(recipe, paths[name], checked(name, hint, value))
    return recipe


KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def checked(name: str, hint: Any, value: Any) -> Any:
    """`value` as a field of type `hint` takes it: the same that the command line accepts.

    Whole numbers may come as floats (`1e4`), texts as paths, tuples as lists.

    Raises:
        BadInput: it is none, with what would be one.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else checked(name, inner, value)
    if origin is typing.Literal:
        if not any(value == each and isinstance(value, type(each)) for each in arguments):
            known = [str(each) for each in arguments]
            raise BadInput(f"no value {value!r} for {name}: {did_you_mean(str(value), known)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise BadInput(f"{name} is a list, not {value!r}")
        return tuple(checked(name, arguments[0], each) for each in value)
    if hint not in KINDS:
        return value
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and math.isfinite(value) and value == int(value):
        return int(value)
    if hint is bool and type(value).__name__ in ("bool", "bool_"):  # NumPy's too
        return bool(value)
    if hint is str and isinstance(value, str):
        return str(value)
    raise BadInput(f"{name} is {KINDS[hint]}, not {value!r}")


def _replace(config: Any, path: tuple[str, ...], value: Any) -> Any:
    if len(path) > 1:
        value = _replace(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: value})
