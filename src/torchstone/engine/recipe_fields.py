"""Recipes are frozen dataclasses, some fields of which are dataclasses too; here they are flat.

A field of a nested dataclass goes by its own name where only one has it (`lr` of `optim`), and by its
path where several do (`optim.lr`, `discriminator_optim.lr`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


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
    """
    paths = field_paths(recipe)
    for name, value in fields.items():
        recipe = _replace(recipe, paths[name], value)
    return recipe


def _replace(config: Any, path: tuple[str, ...], value: Any) -> Any:
    if len(path) > 1:
        value = _replace(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: value})
