"""Going on: with more steps, and a run given again by its recipe's file."""

import itertools
import json
import shutil

import pytest
import torch
from cli_helpers import assert_rejected, run_cli

import torchstone as ts
from torchstone.engine import checkpoint
from torchstone.engine.meter import read_rows
from torchstone.engine.run import Intervals, fit
from torchstone.runs.recipes import recipe_of

CONSTANT = {"lr_schedule": "constant", "warmup_ratio": 0.0}


def weights(run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.state["model"].parameters()])


def rows_of(folder) -> list[dict]:
    """What a run wrote down, less the clock's part."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in ("time", "steps_per_second")} for row in rows]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Eight steps at a constant learning rate."""
    folder = tmp_path_factory.mktemp("short") / "run"
    ts.train("lenet5/smoke", steps=8, out=folder, quiet=True, **CONSTANT)
    return folder


@pytest.mark.sweep
def test_resume_with_more_steps_ends_like_a_run_of_so_many(short, tmp_path, capsys):
    whole = ts.train("lenet5/smoke", steps=16, out=tmp_path / "whole", quiet=True, **CONSTANT)
    folder = shutil.copytree(short, tmp_path / "run")
    run = ts.resume(folder, steps=16)
    said = capsys.readouterr().err
    saved = json.loads((folder / "recipe.json").read_text())
    print(said.splitlines()[0], saved["changes"], run.results, whole.results)
    assert torch.equal(weights(run), weights(whole))
    assert run.results["test/accuracy"] == whole.results["test/accuracy"]
    assert "16 steps instead of 8" in said
    assert saved["fields"]["steps"] == 16
    assert saved["changes"][0]["before"] == {"steps": 8}
    assert saved["changes"][0]["step"] == 8


@pytest.mark.sweep
def test_resume_with_more_steps_follows_their_learning_rate_at_once(tmp_path):
    fields = {"lr": 0.01, "lr_schedule": "linear", "warmup_ratio": 0.0}
    ts.train("lenet5/smoke", steps=4, out=tmp_path / "run", quiet=True, **fields)
    seen = []
    step = torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda s: seen.append(s.param_groups[0]["lr"]) or step(s))
        ts.resume(tmp_path / "run", steps=8, quiet=True)
    print(seen)
    assert seen == pytest.approx([0.01 * (1 - done / 8) for done in (4, 5, 6, 7)])


def test_resume_of_a_finished_run_says_so_and_more_steps_must_be_more(short, tmp_path, capsys):
    folder = shutil.copytree(short, tmp_path / "run")
    before = (folder / "metrics.jsonl").read_bytes()
    code, _, err = run_cli(capsys, "resume", folder)
    assert code == 0
    assert "is finished (8 steps): to train longer, give a larger total with --steps" in err
    assert (folder / "metrics.jsonl").read_bytes() == before
    said = assert_rejected(capsys, "resume", folder, "--steps", "8")
    assert "give more than 8 steps (8 of 8 updates are done)" in said


@pytest.mark.sweep
def test_resume_with_more_steps_renews_patience(tmp_path):
    options = {"steps": 12, "patience": 1, "intervals": {"evaluate": 1}, "lr": 1e-9}  # nothing is learned
    run = ts.train("lenet5/smoke", out=tmp_path / "run", quiet=True, **options)
    stopped = run.step
    run = ts.resume(tmp_path / "run", steps=24, quiet=True)
    print("stopped early at", stopped, "then at", run.step)
    assert stopped < run.step <= 24


def test_train_by_a_recipe_s_file_gives_the_run_again(short, tmp_path, capsys):
    code, _, err = run_cli(capsys, "train", "--config", short / "recipe.json", "--out", tmp_path / "again")
    first, again = (json.loads((each / "recipe.json").read_text()) for each in (short, tmp_path / "again"))
    print(again)
    assert code == 0
    assert again == first
    pairs = zip(*(ts.load(each).parameters() for each in (short, tmp_path / "again")), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert "the data are not those" not in err
    run = ts.train(config=short / "recipe.json", steps=3, out=tmp_path / "other", quiet=True)
    assert run.steps == 3
    answers = run.predict([tmp_path / "again" / "pictures" / "mistakes.png"])
    assert set(answers[0]["probabilities"]) == set("0123456789")
    said = assert_rejected(capsys, "train", "lenet5", "--config", short / "recipe.json")
    assert "leave out 'lenet5'" in said
    assert "no recipe" in assert_rejected(capsys, "train", "--config", tmp_path / "none.json")


def test_load_preprocesses_like_predict(short):
    model = ts.load(short)
    file = short / "pictures" / "mistakes.png"
    probabilities = model(model.preprocess([file, file])).softmax(1)
    expected = list(ts.predict(short, [file])[0]["probabilities"].values())
    print(model.classes, probabilities[0].tolist(), expected)
    assert model.classes == list("0123456789")
    assert probabilities[1].tolist() == pytest.approx(expected, abs=1e-6)


def test_resume_of_a_finished_run_takes_other_data_only_with_more_steps(short, tmp_path, capsys):
    """It redrew the pictures of the digits it was tested on with those of another set, without a word."""
    folder = shutil.copytree(short, tmp_path / "run")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    own = json.loads((folder / "recipe.json").read_text())["fields"]["data"]
    other = "mnist5k" if own == "digits" else "digits"
    said = assert_rejected(capsys, "resume", folder, "--data", other)
    assert f"is finished, and nothing would be trained on {other}" in said
    assert f"torchstone eval {folder} --data {other}" in said
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert run_cli(capsys, "resume", folder, "--data", own)[0] == 0


def test_resume_refuses_other_options_with_what_to_do(short, capsys):
    for option in ("--patience", "--best-metric", "--epochs", "--lr"):
        said = assert_rejected(capsys, "resume", short, option, "3")
        assert f"resume has no option '{option}'" in said
        assert "train --config RUN/recipe.json" in said


def test_resume_says_where_it_goes_back_to_without_the_newest_checkpoint(short, tmp_path, capsys):
    folder = shutil.copytree(short, tmp_path / "run")
    if not (folder / "checkpoint.previous").exists():
        (folder / "checkpoint").rename(folder / "checkpoint.previous")
    else:
        shutil.rmtree(folder / "checkpoint")
    _, meta, complaints = checkpoint.find(folder / "checkpoint")
    print(meta["step"], complaints)
    assert complaints == ["checkpoint is missing"]
    assert "checkpoint is missing: going back to checkpoint.previous" in run_cli(capsys, "resume", folder)[2]


PAIRS = "".join(
    f"{word}\t{word[::-1]}\n" for word in ("".join(p) for p in itertools.product("abcd", repeat=3))
)

# recipe, fields, patience, steps at which it is evaluated until that is exhausted, the best of them
GENERATOR = ("gan/smoke", {"eval_samples": 24, "steps": 24, "lr": 5e-3}, 1, [0, 5, 10, 15, 20], 15)
TRANSLATOR = (
    "transformer/smoke",
    {"data": "pairs.tsv", "steps": 60, "batch_size": 80, "eval_examples": 4, "lr": 2e-2},
    *(2, [0, 4, 8, 12, 16], 8),
)


@pytest.mark.parametrize("after", [7, 15])
@pytest.mark.parametrize("case", [GENERATOR, TRANSLATOR], ids=["gan", "transformer"])
def test_best_weights_and_patience_resume_exactly_at_the_default_interval(case, after, tmp_path, monkeypatch):
    """Evaluations that generate come as often as their work allows, at the same steps after a crash."""
    spec, fields, patience, steps, best = case
    (tmp_path / "pairs.tsv").write_text(PAIRS)
    monkeypatch.chdir(tmp_path)
    entry, _, recipe = recipe_of(spec, {"device": "cpu", **fields})
    intervals = Intervals(save=3, patience=patience)
    folders = tmp_path / "whole", tmp_path / "cut"

    def build():
        return next(iter(entry.module().build(recipe)))

    whole = build()
    fit(whole, folders[0], intervals=intervals, quiet=True)
    broken, run = build(), build()
    broken.stream = itertools.islice(broken.stream, after)
    with pytest.raises(StopIteration):
        fit(broken, folders[1], intervals=intervals, quiet=True)
    fit(run, folders[1], intervals=intervals, quiet=True)
    evaluated = [[row["step"] for row in rows_of(each) if row["split"] == "val"] for each in folders]
    files = [checkpoint.find(each / "checkpoint")[0] for each in folders]
    print(spec, after, run.examples, evaluated, run.step, run.best.about())
    assert evaluated == [steps, steps]
    assert run.best.step == best
    assert (run.step, run.best.about(), run.results) == (whole.step, whole.best.about(), whole.results)
    assert rows_of(folders[0]) == rows_of(folders[1])
    for name in ("model.safetensors", "best.safetensors"):
        pair = [file / name for file in files]
        assert [each.exists() for each in pair] in ([True, True], [False, False])
        assert not pair[0].exists() or pair[0].read_bytes() == pair[1].read_bytes()
