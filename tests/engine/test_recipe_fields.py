"""Recipes flat: names of nested fields, and changing them."""

from dataclasses import dataclass

import pytest

from torchstone.engine.recipe_fields import field_paths, flatten, replace_fields, short_name
from torchstone.engine.update import OptimConfig


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
