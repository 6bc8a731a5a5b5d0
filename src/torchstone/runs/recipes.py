"""Recipes by name: the catalogue's, a user's changes to one, and what a run folder says of its own."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone import systems
from torchstone.errors import BadInput, nearest
from torchstone.systems import System


def recipe_of(name: str, fields: Mapping[str, Any], *, saved: bool = False):
    """`SYSTEM[/RECIPE]` (`-` is read as `_`) with some fields changed: entry, recipe's name, recipe.

    With weights to start from and no recipe named, it is one that suits them, named `transfer`.
    `saved` fields are all there are, and the weights need not be there any more.
    """
    system, _, wanted = name.replace("-", "_").partition("/")
    entry, variant = systems.find(system)
    recipes, weights = entry.module().RECIPES, fields.get("weights")
    first = next(iter(recipes))
    from torchstone.tasks import transfer

    # BERT's recipes begin with weights in their own way
    transfers = weights is not None and hasattr(recipes[first], "freeze")
    wanted = wanted or (transfer.NAME if transfers else first)
    starts = transfers and wanted == transfer.NAME
    if wanted not in recipes and not starts:
        raise BadInput(f"{entry.name} has no recipe {wanted!r}: {nearest(wanted, recipes)}")
    recipe = recipes[first if starts else wanted]
    if starts and not saved:
        named = fields.get("variant", variant if system != entry.name else None)
        frozen = fields.get("freeze") == "backbone"
        recipe = transfer.settings(recipe, Path(str(weights)), named, entry.module(), frozen)
    known = {field.name for field in dataclasses.fields(recipe)}
    for field in fields:
        if field not in known:
            raise BadInput(f"{entry.name} has no field {field!r}: {nearest(field, sorted(known))}")
    if system != entry.name and "variant" not in fields:
        fields = {**fields, "variant": variant}
    recipe = dataclasses.replace(recipe, **fields)
    check(recipe, entry)
    return entry, wanted, recipe


def check(recipe, entry: System) -> None:
    """What holds for every recipe."""
    if getattr(recipe, "variant", entry.variants[0]) not in entry.variants:
        raise BadInput(
            f"{entry.name} has no variant {recipe.variant!r}: {nearest(recipe.variant, entry.variants)}"
        )
    for name in ("steps", "batch"):
        if getattr(recipe, name, 1) < 1:
            raise BadInput(f"{name} must be at least 1, not {getattr(recipe, name)}")


def read_recipe(folder: Path):
    """Catalogue entry, recipe's name and recipe of a run folder."""
    file = folder / "recipe.json"
    if not file.exists():
        raise BadInput(f"{folder} is not a run folder (it has no recipe.json): give what --out was")
    try:
        saved = json.loads(file.read_text())
        name, fields = f"{saved['system']}/{saved['recipe']}", saved["fields"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read ({error!r}): restore it, or train anew") from None
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return recipe_of(name, fields, saved=True)
