"""Numbers of recipes: each field has a range, every recipe is within it, and what is outside is refused."""

import math
import re
import typing

import pytest

import torchstone as ts
from torchstone.engine.field_ranges import RANGES, check_range
from torchstone.engine.recipe_fields import field_paths, get_field
from torchstone.errors import BadInput
from torchstone.runs.recipes import comments
from torchstone.systems import CATALOGUE


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_every_number_of_a_recipe_has_a_range_and_is_in_it(entry):
    seen = set()
    for recipe in entry.module().RECIPES.values():
        for path in field_paths(recipe).values():
            config = get_field(recipe, path[:-1])
            hint = str(typing.get_type_hints(type(config))[path[-1]])
            if "int" in hint or "float" in hint:
                seen.add(path[-1])
                check_range(path[-1], getattr(config, path[-1]))
    print(sorted(seen))
    assert seen <= set(RANGES)


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_zero_is_in_range_where_the_help_gives_it_a_meaning(entry):
    recipe = entry.module().RECIPES["smoke"]
    meant = []
    for path in field_paths(recipe).values():
        text = comments(type(get_field(recipe, path[:-1]))).get(path[-1], "")
        if re.search(r"\b0 (for|is|means)\b", text):
            meant.append((path[-1], text))
            check_range(path[-1], 0)
    print(meant)


@pytest.mark.parametrize(
    ("name", "good", "bad", "said"),
    [
        ("max_episode_steps", [None, 0], [-1], "max_episode_steps must be at least 0"),
        ("steps", [1, 10**9], [0, -3], "steps must be at least 1, not"),
        ("lr", [1e-9, 3], [0.0, -1.0], "lr must be a positive number, not"),
        ("discriminator_optim.lr", [None, 0.1], [-1.0], "discriminator_optim.lr must be a positive number"),
        ("max_grad_norm", [None, 1e-9], [0.0, -1], "max_grad_norm must be a positive number, not"),
        ("dropout", [0.0, 1.0], [1.5, -0.1], "dropout must be 0 to 1, not"),
        ("beta1", [0.0, 0.9], [1.0, 2.0], "beta1 must be at least 0 and below 1, not"),
        ("quantiles", [(0.1, 0.9)], [(0.1, 1.0), (0.0,)], "quantiles must be above 0 and below 1, not"),
        ("seed", [0, 2**63 - 1], [-1, 2**63], "seed must be at least 0 and below"),
        ("widths", [(), (1, 2)], [(64, 0)], "widths must be at least 1, not 0"),
        ("eps", [1e-12], [0.0], "eps must be a positive number"),
        ("forget_bias", [-3.0, None], [math.nan, math.inf], "forget_bias must be a finite number, not"),
        ("lr", [True], [math.nan, -math.inf], "lr must be a finite number, not"),
    ],
)
def test_check_range_refuses_what_is_outside(name, good, bad, said):
    for value in good:
        check_range(name, value)
    for value in bad:
        with pytest.raises(BadInput, match=said) as refused:
            check_range(name, value)
        print(refused.value)


def test_train_refuses_a_number_out_of_range_and_empty_data(tmp_path):
    for fields, said in [
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, not -1.0"),
        ({"max_grad_norm": -1}, "max_grad_norm must be a positive number, not -1"),
        ({"optim.beta2": 1.0}, "beta2 must be at least 0 and below 1"),
        ({"data": ""}, "data is empty"),
        ({"data": "  "}, "data is empty"),
    ]:
        with pytest.raises(BadInput, match=said):
            ts.train("lenet5/smoke", out=tmp_path / "run", **fields)
    assert not list(tmp_path.iterdir())
