"""Run folders and recipes that an earlier version wrote, before fields, metrics and modules were renamed.

`data_files/runs_a5e74e4.tar.xz` was made at commit a5e74e4 and holds

    recipes.json           the fields of every recipe of every system
    state_keys.json        names and shapes of what every variant's state dict held
    old_runs/SYSTEM/       a smoke run of 6 steps, cut off after its checkpoint of step 3; its numbers were rounded
                           so that they compress, and `expected.json` is what that version made of it
"""

import contextlib
import json
import shutil
import tarfile
from pathlib import Path

import predict_inputs
import pytest
import torch
from shared_cache import made_once

import torchstone as ts
from torchstone import systems
from torchstone.engine.old_names import new_values
from torchstone.errors import BadInput
from torchstone.runs.load import load_run
from torchstone.runs.recipes import read_recipe

ARCHIVE = Path(__file__).parents[1] / "data_files" / "runs_a5e74e4.tar.xz"

RUNS = (
    *("perceptron", "backprop", "mlp", "lenet5", "resnet", "rnn", "lstm", "gru", "ctc", "seq2seq"),
    *("transformer", "gpt", "bert", "t5", "vae", "gan", "cgan", "dcgan", "ddpm"),
    *("reinforce", "a2c", "ppo", "dqn", "ddpg"),
)
of_each_run = pytest.mark.parametrize("name", RUNS)
# the others are trained by the same code
TASKS = ("perceptron", "lenet5", "lstm", "ctc", "gpt", "vae", "gan", "reinforce", "ppo", "dqn")
of_one_run_a_task = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in TASKS else pytest.mark.sweep) for name in RUNS]
)

TRAINED = 1e-3  # of a metric, relative: another processor rounds otherwise
EVALUATED = 0.05  # where a classifier that was trained there and here takes part


@pytest.fixture(scope="session")
def archive(session_folder) -> Path:
    def extract(folder: Path) -> None:
        with tarfile.open(ARCHIVE) as opened:
            opened.extractall(folder, filter="data")

    return made_once(session_folder / "old-runs", extract)


@pytest.fixture
def run(archive, name, tmp_path) -> Path:
    """A copy of the old run of that name."""
    return shutil.copytree(archive / "old_runs" / name, tmp_path / name)


@pytest.mark.parametrize("entry", systems.CATALOGUE, ids=lambda entry: entry.name)
def test_read_recipe_of_every_old_recipe(entry, archive, tmp_path):
    """Each is today's recipe of that name, field by field."""
    recipes = json.loads((archive / "recipes.json").read_text()).get(entry.name, {})
    for recipe_name, fields in recipes.items():
        saved = {"system": entry.name, "recipe": recipe_name, "fields": fields, "clock": {}}
        (tmp_path / "recipe.json").write_text(json.dumps(saved))
        found, name, recipe = read_recipe(tmp_path)
        assert (found, name) == (entry, recipe_name)
        assert recipe == entry.module().RECIPES[recipe_name], recipe_name


@pytest.mark.parametrize("entry", systems.CATALOGUE, ids=lambda entry: entry.name)
def test_load_state_dict_of_every_old_variant(entry, archive):
    """What a variant's weights were called, its network still takes."""
    variants = json.loads((archive / "state_keys.json").read_text()).get(entry.name, {})
    for old, shapes in variants.items():
        variant = new_values(entry.name, {"variant": old})["variant"]
        make = entry.module().VARIANTS[variant].make
        try:
            with torch.device("meta"):
                model = make()
        except RuntimeError:  # looks at its numbers in the making
            model = make()
        device = next(model.parameters()).device
        model.load_state_dict({name: torch.empty(shape, device=device) for name, shape in shapes.items()})


@of_each_run
def test_load_and_use_an_old_run(run, tmp_path):
    model, metadata, entry = load_run(run)
    assert not model.training
    expected = json.loads((run / "expected.json").read_text())
    if expected["evaluate"] is not None:  # bert was cut off while it was pretrained on other text
        found, before = ts.evaluate(run, device="cpu"), dict(expected["evaluate"])
        found = {name: value for name, value in found.items() if name not in STATED}
        if entry.name == "perceptron":  # its loss is that of its training now, where it was a cross-entropy
            del found["loss"], before["cross_entropy"]
        assert_close(found, before, EVALUATED)
    module = entry.module()
    if hasattr(module, "predict"):
        inputs, options = predict_inputs.for_predict(metadata, tmp_path)
        (answer,) = ts.predict(run, inputs, device="cpu", **options)
        assert answer
    with contextlib.suppress(BadInput):  # of this kind of model nothing is sampled
        if hasattr(module, "sample"):
            assert len(ts.sample(run, device="cpu", num_samples=2)) == 2
    if hasattr(module, "play"):
        assert len(ts.play(run, episodes=1, device="cpu")) == 1


@of_one_run_a_task
def test_resume_an_old_run(run):
    """It goes on as the version that wrote it did."""
    expected = json.loads((run / "expected.json").read_text())
    ts.resume(run, device="cpu", quiet=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if line["step"] > 3]
    # evaluations are fewer than they were, where they took more than a tenth of the work
    at = {(row["step"], row["split"]) for row in rows}
    before = [row for row in expected["rows"] if row["split"] != "val" or (row["step"], "val") in at]
    rows = [row for row in rows if row["split"] != "val" or row["step"] in {r["step"] for r in before}]
    assert [(row["step"], row["split"]) for row in rows] == [(r["step"], r["split"]) for r in before]
    for row, was in zip(rows, before, strict=True):
        trained = row["split"] == "train"
        assert_close(numbers(row), numbers(was), TRAINED if trained else EVALUATED)


# what stands beside a Fréchet distance now, and did not then
STATED = ("frechet_distance_floor", "frechet_features", "frechet_samples", "frechet_images")


def numbers(row: dict) -> dict:
    others = ("step", "split", "time", "steps_per_second", "rate", *STATED)
    return {name: value for name, value in row.items() if name not in others}


def assert_close(found: dict, expected: dict, tolerance: float) -> None:
    """The same values, whatever they are called."""
    values = [sorted(float(v) for v in each.values() if not isinstance(v, str)) for each in (found, expected)]
    print(found, expected, sep="\n")
    assert values[0] == pytest.approx(values[1], rel=tolerance, abs=tolerance)
