"""Recipes flat: names of nested fields, and changing them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from torchstone import systems
from torchstone.engine.recipe_fields import (
    checked,
    field_paths,
    flatten,
    get_field,
    replace_fields,
    short_name,
)
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput


@dataclass(frozen=True)
class Inner:
    lr: float = 0.5
    width: int = 3
    steps: int = 9


@dataclass(frozen=True)
class Nested:
    steps: int = 10
    optim: OptimConfig = OptimConfig(lr=2e-3)
    inner: Inner = Inner()


def test_field_paths_prefer_outer_then_optim():
    paths = field_paths(Nested())
    assert paths["steps"] == ("steps",)
    assert paths["inner.steps"] == ("inner", "steps")
    assert paths["lr"] == paths["optim.lr"] == ("optim", "lr")
    assert paths["inner.lr"] == ("inner", "lr")
    assert paths["width"] == ("inner", "width")
    assert short_name(Nested(), ("inner", "lr")) == "inner.lr"
    assert short_name(Nested(), ("optim", "lr")) == "lr"


def test_replace_fields_leaves_the_others():
    recipe = replace_fields(Nested(), {"lr": 0.1, "inner.lr": 0.2, "width": 4, "steps": 1})
    assert (recipe.optim.lr, recipe.inner.lr, recipe.inner.width, recipe.steps) == (0.1, 0.2, 4, 1)
    assert recipe.inner.steps == 9
    assert recipe.optim.optimizer == Nested().optim.optimizer
    with pytest.raises(KeyError):
        replace_fields(Nested(), {"learning_rate": 1})


def test_flatten_joins_names_by_dots():
    assert flatten({"a": 1, "optim": {"lr": 2, "deep": {"x": 3}}}) == {
        "a": 1,
        "optim.lr": 2,
        "optim.deep.x": 3,
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": "ten"}, "steps is a whole number, not 'ten'"),
        ({"steps": 1.5}, "steps is a whole number, not 1.5"),
        ({"steps": True}, "steps is a whole number, not True"),
        ({"steps": float("inf")}, "steps is a whole number, not inf"),
        ({"lr": "fast"}, "lr is a number, not 'fast'"),
        ({"lr": None}, "lr is a number, not None"),
        ({"optimizer": "adamx"}, "no value 'adamx' for optimizer: did you mean adam"),
        ({"optim.compile": 1}, "optim.compile is True or False, not 1"),
    ],
)
def test_replace_fields_refuses_what_the_command_line_refuses(fields, said):
    with pytest.raises(BadInput) as error:
        replace_fields(Nested(), fields)
    print(error.value)
    assert said in str(error.value)


def test_checked_takes_numbers_paths_and_lists_of_their_kind():
    assert checked("steps", int, 1e4) == 10_000
    assert checked("steps", int, np.int64(3)) == 3
    assert isinstance(checked("lr", float, 1), float)
    assert checked("weights", str | None, None) is None
    assert checked("data", str, Path("photos")) == "photos"
    assert checked("rates", tuple[int, ...], [1, 2.0]) == (1, 2)


@pytest.mark.parametrize("entry", systems.CATALOGUE, ids=lambda entry: entry.name)
def test_replace_fields_accepts_every_recipe_s_own_values(entry):
    for name, recipe in entry.module().RECIPES.items():
        own = {".".join(path): get_field(recipe, path) for path in field_paths(recipe).values()}
        print(entry.name, name, len(own), "fields")
        assert replace_fields(recipe, own) == recipe
