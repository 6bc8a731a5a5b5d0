"""Recipes by name: fields flat and nested, names of earlier versions, settings that would be ignored."""

import json
from inspect import unwrap as raw

import numpy as np
import pytest
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone import api
from torchstone.engine import old_names
from torchstone.engine.meter import read_rows
from torchstone.errors import BadInput
from torchstone.runs.folder import read_intervals
from torchstone.runs.recipes import read_recipe, recipe_of
from torchstone.runs.seeds import seeds_of


def test_recipe_of_changes_nested_fields():
    _, name, recipe = recipe_of("lenet5/smoke", {"lr": 0.5, "optim.weight_decay": 0.25, "steps": 7})
    assert (name, recipe.optim.lr, recipe.optim.weight_decay, recipe.steps) == ("smoke", 0.5, 0.25, 7)


def test_recipe_of_reads_old_names_and_says_so(capsys):
    _, _, recipe = recipe_of("lenet5/smoke", {"optimiser": "sgd", "clip": 1.0, "batch": 8})
    assert (recipe.optim.optimizer, recipe.optim.max_grad_norm, recipe.batch_size) == ("sgd", 1.0, 8)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "optimiser is called optimizer now",
        "clip is called max_grad_norm now",
        "batch is called batch_size now",
    ]


def test_old_option_is_answered_with_the_new_name(capsys, tmp_path):
    words = ("train", "lenet5/smoke", "--steps", "2", "--warmup", "0.5", "--out", tmp_path / "run")
    code, _, err = run_cli(capsys, *words)
    assert code == 0
    assert "torchstone: --warmup is called --warmup-ratio now" in err
    assert read_recipe(tmp_path / "run")[2].optim.warmup_ratio == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--momentum", "0.5"], "adamw has beta1 and beta2"),
        (["--optimizer", "sgd", "--beta1", "0.5"], "sgd has momentum"),
        (["--learning-rate", "1"], "has no field '--learning-rate'"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(capsys, options, message):
    assert message in assert_rejected(capsys, "train", "lenet5/smoke", *options)


def test_read_recipe_of_an_earlier_version(tmp_path):
    """`momentum` was Adam's β1 then; it is SGD's of an old SGD run."""
    fields = {
        "steps": 9,
        "batch": 4,
        "optimiser": "adamw",
        "momentum": 0.5,
        "lr": 0.1,
        "ema": 0.9,
        "clip": None,
    }
    saved = {"system": "lenet5", "recipe": "smoke", "fields": fields, "clock": {}}
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    recipe = read_recipe(tmp_path)[2]
    assert (recipe.steps, recipe.batch_size, recipe.optim.ema_decay) == (9, 4, 0.9)
    assert (recipe.optim.beta1, recipe.optim.momentum, recipe.optim.lr) == (0.5, 0.9, 0.1)
    saved["fields"] = fields | {"optimiser": "sgd"}
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    recipe = read_recipe(tmp_path)[2]
    assert (recipe.optim.beta1, recipe.optim.momentum) == (0.9, 0.5)


def test_read_recipe_of_another_system_is_refused(tmp_path):
    from torchstone.systems import find

    saved = {"system": "lenet5", "recipe": "smoke", "fields": {}, "clock": {}}
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    with pytest.raises(BadInput, match="a run of 'lenet5', not of 'mlp'"):
        read_recipe(tmp_path, find("mlp")[0])


def test_old_state_entries_have_new_names():
    assert old_names.new_entry("optimiser") == "optimizer"
    assert old_names.new_entry("critic_schedule").endswith("_lr_schedule")
    assert old_names.new_entry("model") == "model"
    assert old_names.new_entry("lr_schedule") == "lr_schedule"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: ts.train("lenet5", steps="ten", out=out), "steps is a whole number, not 'ten'"),
        (lambda out: ts.train("lenet5", optimizer="rmsprob", out=out), "did you mean rmsprop"),
        (lambda out: ts.train("mlp", activation="swish", out=out), "no value 'swish' for activation"),
        (lambda out: ts.train("lenet5", intervals={"eval": 5}, out=out), "did you mean evaluate"),
        (lambda out: ts.train("lenet5", intervals={"log": 0}, out=out), "must be positive, not 0"),
        (lambda out: ts.train("lenet5", seeds=0, out=out), "seeds must be at least 1, not 0"),
        (lambda out: ts.play(out, episodes=0), "episodes must be at least 1"),
    ],
)
def test_python_calls_are_checked_like_the_command_line(call, said, tmp_path):
    with pytest.raises(BadInput) as error:
        call(tmp_path / "run")
    print(error.value)
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def test_verify_is_called_whether_its_module_was_imported_or_not():
    """Importing a module puts it in its package, in place of the function: the second call failed."""
    import torchstone.verify

    assert ts.verify is torchstone.verify
    assert all(check.passed for _ in range(2) for check in ts.verify("perceptron"))


def test_python_calls_take_one_input_and_numbers_of_numpy(trained_run, tmp_path):
    run, picture = trained_run("lenet5"), tmp_path / "digit.png"
    ink = np.full((60, 60), 255, np.uint8)
    ink[10:50, 28:34] = 0
    Image.fromarray(ink).save(picture)
    (one,) = ts.predict(run, str(picture))  # and not its letters
    assert ts.predict(run, picture) == ts.predict(run, [picture]) == [one]
    assert [row["run"] for row in ts.compare(run)] == [run.name]
    with pytest.raises(BadInput, match="nothing to prepare"):
        ts.load(run).preprocess([])
    found = recipe_of("perceptron", {"average": np.bool_(True), "steps": np.int64(7), "data": np.str_("x")})[
        2
    ]
    assert (found.average, found.steps, found.data) == (True, 7, "x")
    assert [type(each) for each in (found.average, found.steps, found.data)] == [bool, int, str]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: raw(ts.train)(5), "the system is a text, not 5"),
        (lambda out: raw(ts.train)("lenet5", out=5), "out is a text, not 5"),
        (
            lambda out: raw(ts.train)("lenet5", intervals=100, out=out),
            "intervals are given as {'evaluate': 100",
        ),
        (
            lambda out: raw(ts.train)("lenet5", overwrite="yes", out=out),
            "overwrite is True or False, not 'yes'",
        ),
        (lambda out: raw(ts.train)("lenet5", quiet=None, out=out), "quiet is True or False, not None"),
        (lambda out: raw(ts.create)(5), "the system is a text, not 5"),
        (lambda out: raw(ts.create)("lenet5", num_classes=-1), "lenet5 cannot be made so: Trying to create"),
        (lambda out: raw(api.verify)(5), "the system is a text, not 5"),
        (lambda out: raw(ts.list_systems)(5), "chapter is a text, not 5"),
        (lambda out: raw(ts.load)(None), "the run is a text, not None"),
        (lambda out: raw(ts.load_tokenizer)(5), "the run is a text, not 5"),
        (lambda out: raw(ts.resume)(None), "the run is a text, not None"),
        (lambda out: raw(ts.evaluate)(5), "the run is a text, not 5"),
        (lambda out: raw(ts.predict)(out, None), "inputs are a list of files or texts, not NoneType"),
        (lambda out: raw(ts.predict)(out, [b"x"]), "an input is the name of a file or a text, not bytes"),
        (lambda out: raw(ts.predict)(None, "x"), "the run is a text, not None"),
        (lambda out: raw(ts.sample)(5), "the run is a text, not 5"),
        (lambda out: raw(ts.play)(out, video=5), "video is a text, not 5"),
        (lambda out: raw(ts.export)(out, out=5), "out is a text, not 5"),
        (lambda out: raw(ts.compare)([5]), "the run is a text, not 5"),
        (
            lambda out: raw(ts.compare)([out], out="x.txt"),
            "compare writes .png or .pdf or .svg or .jpg files",
        ),
    ],
)
def test_python_calls_with_arguments_of_other_types_are_refused(call, said, tmp_path):
    """Without the tests' own checks of types, as a user has it."""
    with pytest.raises(BadInput) as error:
        call(tmp_path / "run")
    print(error.value)
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("saved", ["{", "[]", "{}", '{"intervals": 3}', '{"clock": null}'])
def test_read_intervals_of_a_damaged_recipe_is_refused(saved, tmp_path):
    (tmp_path / "recipe.json").write_text(saved)
    with pytest.raises(BadInput, match=r"recipe\.json does not say when to evaluate") as error:
        read_intervals(tmp_path)
    print(error.value)


def test_read_rows_of_what_is_no_file_of_text_is_refused(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n[1]\n{"step": 2}\n')
    assert read_rows(file) == [{"step": 1}]
    file.write_bytes(b'{"step": 1}\n\xff')
    for each in (file, tmp_path):
        with pytest.raises(BadInput, match="cannot be read") as error:
            read_rows(each)
        print(error.value)


def test_read_recipe_of_a_folder_in_its_place_is_refused(tmp_path):
    (tmp_path / "recipe.json").mkdir()
    with pytest.raises(BadInput, match=r"there is no recipe .*recipe\.json") as error:
        read_recipe(tmp_path)
    print(error.value)
    assert seeds_of(tmp_path) == []
