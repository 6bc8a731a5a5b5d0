"""Recipes by name: the catalogue's, a user's changes to one, and what a run folder says of its own."""

import dataclasses
import inspect
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from torchstone import systems
from torchstone.engine import old_names
from torchstone.engine.console import notify
from torchstone.engine.field_ranges import check_range
from torchstone.engine.recipe_fields import (
    checked,
    field_paths,
    flatten,
    get_field,
    replace_fields,
    short_name,
)
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import parse_json
from torchstone.systems import System


def recipe_of(name: str, fields: Mapping[str, Any], *, saved: bool = False):
    """`SYSTEM[/RECIPE]` (`-` is read as `_`) with some fields changed: entry, recipe's name, recipe.

    Fields go by the names of `field_paths`; names of earlier versions are understood. With weights to
    start from and no recipe named, it is one that suits them, named `transfer`.

    Args:
        saved: the fields are those of a run folder: all there are, and the weights need not exist any more.

    Raises:
        BadInput: no such system, recipe or field.
    """
    system, _, wanted = name.replace("-", "_").partition("/")
    entry, variant = systems.find(system)
    recipes, weights = entry.module().RECIPES, fields.get("weights")
    first = next(iter(recipes))
    from torchstone.hub.weight_files import holds_weights
    from torchstone.tasks import transfer

    # BERT's recipes begin with weights in their own way
    transfers = weights is not None and hasattr(recipes[first], "freeze")
    if not wanted and not transfers and "data" in fields and hasattr(entry.module(), "recipe_for_data"):
        wanted = entry.module().recipe_for_data(fields["data"])
    wanted = wanted or (transfer.NAME if transfers else first)
    starts = transfers and wanted == transfer.NAME
    if wanted not in recipes and not starts:
        raise BadInput(f"{entry.name} has no recipe {wanted!r}: {did_you_mean(wanted, recipes)}")
    recipe = recipes[first if starts else wanted]
    fields = today(entry, recipe, fields)
    if not saved:
        fields = optimizer_fields(recipe, fields)
    if starts and not saved:
        source = Path(str(weights))
        named = fields.get("variant", variant if system != entry.name else None)
        frozen = fields.get("freeze") == "backbone"
        if source.is_dir() and not holds_weights(source):  # a run
            own = flatten(dataclasses.asdict(read_recipe(source, entry)[2]))
            known = field_paths(recipe)
            own = {k: v for k, v in own.items() if k in known and k not in ("weights", "freeze")}
            recipe = replace_fields(recipe, own)
        else:
            recipe = transfer.recipe_for_weights(recipe, named, entry.module(), frozen)
    if system != entry.name and "variant" not in fields:
        fields = {**fields, "variant": variant}
    recipe = replace_fields(recipe, fields)
    check(recipe, entry, saved=saved)
    return entry, wanted, recipe


def today(entry: System, recipe: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that a user gives, flat and by the names that they have today.

    Raises:
        BadInput: a name that is no field, and never was one.
    """
    known, flat = field_paths(recipe), flatten(fields)
    refuse_steps(entry.name, flat, known)
    refuse_optimizer(entry.name, flat, known)
    renamed = old_names.new_fields(entry.name, flat, known)
    for name, new in renamed.items():
        notify(f"{name} is called {new} now")
    flat = {renamed.get(name, name): value for name, value in flat.items()}
    for name in flat:
        if name not in known:
            raise BadInput(f"{entry.name} has no field {name!r}: {did_you_mean(name, sorted(known))}")
    return flat


def refuse_steps(system: str, names: Iterable[str], known: Container[str]) -> None:
    """Refuse `steps` where it counted updates, which a user of today would not mean.

    Raises:
        BadInput: with the field that replaced it.
    """
    if "steps" in names and "steps" not in known and system in old_names.PER_UPDATE:
        new, _ = old_names.PER_UPDATE[system]
        unit = new.removeprefix("total_").replace("timesteps", "environment steps")
        option = new.replace("_", "-")
        raise BadInput(f"{system} counts {unit}, not updates: give --{option} (from Python: {new}=)")


def refuse_optimizer(system: str, names: Iterable[str], known: Container[str]) -> None:
    """Refuse another optimizer where the learning rule is part of the system.

    Raises:
        BadInput: with what is to be changed instead.
    """
    if "optimizer" not in known and {"optimizer", "optimizer_implementation", "lr_schedule"} & set(names):
        raise BadInput(
            f"{system} has its learning rule as part of the system: there is no optimizer or schedule to "
            f"choose (torchstone train {system} --help lists its fields)"
        )


def check(recipe, entry: System, *, saved: bool = False) -> None:
    """What holds for every recipe: a variant that there is, numbers in their ranges, data with a name.

    Args:
        saved: it is a run's, maybe of a version with other ranges: only its length and batches are checked.
    """
    if getattr(recipe, "variant", entry.variants[0]) not in entry.variants:
        raise BadInput(
            f"{entry.name} has no variant {recipe.variant!r}: {did_you_mean(recipe.variant, entry.variants)}"
        )
    for path in dict.fromkeys(field_paths(recipe).values()):
        value = get_field(recipe, path)
        if saved and path[-1] not in ("steps", "total_timesteps", "total_episodes", "batch_size"):
            continue
        check_range(short_name(recipe, path), value)
        if path[-1] == "data" and not str(value).strip():  # an unset variable of the shell
            raise BadInput("data is empty: name a set, a file or a folder (. for the present one)")


def checked_intervals(intervals: Mapping[str, Any]) -> dict[str, Any]:
    """Intervals as `engine.run.Intervals` takes them.

    Raises:
        BadInput: another name, or no positive number.
    """
    known: dict[str, Any] = dict.fromkeys(("log", "evaluate", "save", "patience"), int | None)
    known |= {"seconds": float, "best_metric": str | None, "evaluation_share": float}
    checked_ones = {}
    for name, given in intervals.items():
        if name not in known:
            raise BadInput(f"there is no interval {name!r}: {did_you_mean(name, known)}")
        checked_ones[name] = value = checked(f"the interval {name!r}", known[name], given)
        if isinstance(value, int | float) and value <= 0:
            raise BadInput(f"the interval {name!r} must be positive, not {value}")
    return checked_ones


# what an optimizer reads of a recipe; where the usual value is not the recipe's default, with that value
OPTIMIZER_FIELDS: dict[str, dict[str, float | None]] = {
    **{name: {"momentum": None} for name in ("sgd", "momentum", "nesterov", "rmsprop")},
    **{name: {"beta1": None, "beta2": None} for name in ("adam", "adamw")},
    "adagrad": {},
    "lion": {"beta1": None, "beta2": 0.99},
    "muon": {"momentum": 0.95, "beta1": None, "beta2": None},
}


def optimizer_fields(recipe: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields`, and where they name another optimizer than the recipe's, what that one usually has.

    Raises:
        BadInput: a field that the optimizer would not look at.
    """
    paths = field_paths(recipe)
    if "optimizer" not in paths:
        return dict(fields)
    own = get_field(recipe, paths["optimizer"])
    optimizer = fields.get("optimizer", own)
    read = OPTIMIZER_FIELDS.get(optimizer)
    if read is None:
        return dict(fields)  # an unknown one is refused with the others' names
    for name in ("momentum", "beta1", "beta2"):
        if name in fields and name not in read:
            having = [each for each, names in OPTIMIZER_FIELDS.items() if name in names]
            what = " and ".join(read) or "neither"
            raise BadInput(f"{name} is of {', '.join(having)}; {optimizer} has {what}")
    usual = {
        name: value
        for name, value in read.items()
        if value is not None and name not in fields and name in paths  # agents have no such fields
    }
    return {**(usual if optimizer != own else {}), **fields}


def read_recipe(folder: Path, entry: System | None = None):
    """Catalogue entry, recipe's name and recipe of a run folder; of `entry`, if that is given.

    Raises:
        BadInput: no run folder, one that cannot be read, or another system's.
    """
    file = folder / "recipe.json"
    if not file.exists():
        raise BadInput(f"{folder} is not a run folder (it has no recipe.json): give what --out was")
    return read_recipe_file(file, entry)[:3]


def read_recipe_file(file: Path, entry: System | None = None):
    """The same of a file `recipe.json`, and all that it holds.

    Raises:
        BadInput: it cannot be read, or is another system's.
    """
    file = file / "recipe.json" if file.is_dir() else file
    if not file.is_file():
        raise BadInput(f"there is no recipe {file}: give the recipe.json of a run folder")
    try:
        saved = parse_json(file.read_text())
        name, fields = f"{saved['system']}/{saved['recipe']}", flatten(saved["fields"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} cannot be read ({error!r}): restore it, or train anew") from None
    if entry is not None and saved["system"] != entry.name:
        raise BadInput(f"{file.parent} is a run of {saved['system']!r}, not of {entry.name!r}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    if "clock" in saved:
        fields = _of_earlier(saved["system"], saved["recipe"], fields)
    return (*recipe_of(name, fields, saved=True), saved)


def _of_earlier(system: str, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """An earlier version's fields, by the names and values of today."""
    entry, _ = systems.find(system)
    recipes = entry.module().RECIPES
    known = field_paths(recipes.get(name, next(iter(recipes.values()))))
    renamed = old_names.new_fields(entry.name, fields, known, old=True)
    if fields.get("optimiser") in ("adam", "adamw") and "momentum" in fields and "beta1" in known:
        renamed["momentum"] = "beta1"  # one name for both then
    return old_names.new_values(entry.name, {renamed.get(k, k): v for k, v in fields.items()})


def comments(recipe: type) -> dict[str, str]:
    """Field name to the comment on its line, or on the last line of its default."""
    pattern = re.compile(r"^    (\w+)[ \t]*:(?:[^#\n]|\n(?!    \w+[ \t]*:))*?#[ \t]*(.+)$", re.MULTILINE)
    return dict(pattern.findall(inspect.getsource(recipe)))
