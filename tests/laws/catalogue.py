"""Law 8: what a catalogue entry owes."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchstone.runs.recipes import comments
from torchstone.tools import docs

PLAYING = ("reinforcement", "planning", "multiagent")  # chapters whose systems play, and predict nothing


def complete(entry, folder: Path = docs.FOLDER, *, page: Callable[[Any], str] = docs.page) -> None:
    """Every one of it, or it says what is missing.

    Args:
        folder: where the pages are.
        page: a system's page as it should be.
    """
    module = entry.module()
    text, missing = inspect.cleandoc(module.__doc__ or ""), []

    def owes(holds: bool, what: str) -> None:
        if not holds:
            missing.append(what)

    owes(
        tuple(module.VARIANTS) == entry.variants,
        f"variants {entry.variants}, the file has {tuple(module.VARIANTS)}",
    )
    owes(
        tuple(module.RECIPES) == entry.recipes,
        f"recipes {entry.recipes}, the file has {tuple(module.RECIPES)}",
    )
    owes("smoke" in module.RECIPES, "no recipe `smoke`")
    recipe = module.Recipe
    frozen = dataclasses.is_dataclass(recipe) and recipe.__dataclass_params__.frozen
    owes(frozen, "Recipe is no frozen dataclass")
    if frozen:
        names = [field.name for field in dataclasses.fields(recipe)]
        bare = [name for name in names if not comments(recipe).get(name)]
        configs = {type(value) for preset in module.RECIPES.values() for value in vars(preset).values()}
        for config in filter(dataclasses.is_dataclass, configs):
            described = comments(config)
            bare += [
                f"{config.__name__}.{f.name}" for f in dataclasses.fields(config) if not described.get(f.name)
            ]
        owes(not bare, f"no comment on {bare}")
        lacking = {"data", "variant", "seed", "device"} - set(names)
        lacking |= set() if {"steps", "total_timesteps", "total_episodes"} & set(names) else {"steps"}
        owes(not lacking, f"no field {sorted(lacking)}")
        for name, preset in module.RECIPES.items():
            owes(isinstance(preset, recipe), f"recipe {name} is no Recipe")
            known = getattr(preset, "variant", None) in module.VARIANTS
            owes(known, f"recipe {name} has an unknown variant")
    authors = entry.paper.partition(",")[0].split(" and ")[0].split()[-1]
    owes("Paper:" in text, "docstring names no `Paper:`")
    owes(authors in text, f"docstring does not name {authors}")
    owes(str(entry.year) in text, f"docstring does not name {entry.year}")
    owes("What differs from the paper" in text, "docstring does not say what differs")
    owes(len(module.FACTS) > 0, "no FACTS")
    owes(next(iter(module.reference()), None) is not None, "reference() yields nothing")
    # what makes pictures out of noise has nothing to predict
    makes = entry.chapter == "generative" and not hasattr(module, "predict")
    main = "sample" if makes else "play" if entry.chapter in PLAYING else "predict"
    for use in ("build", main, "evaluate"):
        owes(callable(getattr(module, use, None)), f"no {use}()")
        owes(use in module.__all__, f"{use} is not in __all__")
    file = folder / "systems" / f"{entry.name}.md"
    is_fresh = file.exists() and file.read_text() == page(entry)
    owes(is_fresh, f"docs/systems/{file.name} is {'stale' if file.exists() else 'missing'} (make docs)")
    print(f"{entry.name}: {len(module.FACTS)} facts, {len(module.RECIPES)} recipes")
    assert not missing, f"{entry.name}: {'; '.join(missing)}"
