"""Steps and epochs, and how often a run is evaluated by default."""

import json

import pytest
from cli_helpers import assert_rejected, run_cli

from torchstone.engine.run import EVALUATION_SHARE, FORWARDS, Examples, Intervals
from torchstone.runs import execute, recipes


@pytest.mark.parametrize(
    ("steps", "batch", "val", "evaluations", "first"),
    [
        (1500, 64, 400, 20, True),  # plenty of work: as many as make a curve
        (10, 64, 5000, 1, False),  # a tenth of the work is less than one: at the end
        (60, 32, 144, 4, True),
        (1000, 100, 3000, 10, True),
        (1, 1, 1, 1, False),
    ],
)
def test_evaluations_take_a_tenth_of_the_work_by_default(steps, batch, val, evaluations, first):
    due = Intervals().resolve(steps, Examples(batch, 10_000, val))
    count = -(-steps // due.evaluate)
    share = count * val / (steps * batch * FORWARDS)
    print(f"every {due.evaluate} of {steps} steps, {count} times: {share:.1%} of the work")
    assert (count, due.first) == (evaluations, first)
    assert count == 1 or share <= EVALUATION_SHARE
    assert Intervals(evaluate=3).resolve(steps, Examples(batch, 10_000, val)).evaluate == 3
    assert Intervals().resolve(1000).evaluate == 50  # where nothing is known


@pytest.mark.parametrize(
    ("examples", "steps", "evaluations", "share", "epochs"),
    [
        # five passes of each of 40, where an update is three of each of 10
        (Examples(10, 100, 40, evaluation=200), 100, 1, 0.0667, 10),
        (Examples(10, 100, 40, evaluation=200), 200, 3, 0.1333, 20),  # and one of the untrained network
        (Examples(10, 100, evaluation=200, update=100), 200, 10, 0.11, 20),  # no split, a costly update
        (Examples(10, None, 40), 200, 15, 0.1067, None),  # generated without end
        (Examples(10, 100), 200, 20, 0.0, 20),  # what evaluation costs is not known
    ],
)
def test_evaluation_is_reckoned_by_what_it_costs(examples, steps, evaluations, share, epochs):
    due = Intervals().resolve(steps, examples)
    count = -(-steps // due.evaluate)
    print(f"{examples}: {count} evaluations and {due.first} before, {due.share:.2%} of the work")
    assert (count, examples.epochs(steps)) == (evaluations, epochs)
    assert due.share == pytest.approx(share, abs=1e-4)
    assert examples.steps(2) == (None if epochs is None else 20)
    assert Intervals(evaluate=steps).resolve(steps, examples).first


def test_epochs_are_turned_into_steps_and_said(tmp_path, capsys):
    out = tmp_path / "run"
    code, _, err = run_cli(capsys, "train", "lenet5/smoke", "--epochs", "0.5", "--out", out)
    fields = json.loads((out / "recipe.json").read_text())["fields"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = -(-1294 // 2) // 32 + 1
    assert code == 0
    assert fields["steps"] == steps == 21
    assert f"{steps} steps of 32 images are 0.519 epochs of 1,294" in err
    assert "warning: that is less than one epoch" in err
    assert [row["step"] for row in rows if row["split"] == "val"] == [21]
    code, _, err = run_cli(
        capsys, *("train", "lenet5/smoke", "--epochs", "1.2", "--out", tmp_path / "b", "--eval-every", "25")
    )
    assert "warning" not in err
    assert "validation every 25 on 144" in err


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "ddpm/smoke",
            ["60 steps of 32 images are 1.48 epochs of 1,294; validation at the end on 144, 9% of the work"],
        ),
        (
            "rnn/adding",
            [
                "1,500 steps of 50 problems, generated without end; validation every 79 on 1,000, 10% of the work"
            ],
        ),
        (
            "t5/smoke",
            [
                "100 steps of 640 tokens are 15.4 epochs of 4,160; validation at the end on 10,240, 5% of the work"
            ],
        ),
    ],
)
def test_training_begins_with_what_evaluation_comes_to(spec, said):
    entry, _, recipe = recipes.recipe_of(spec, {"device": "cpu"})
    (run,) = entry.module().build(recipe)
    lines = execute.lengths(run, Intervals())
    print(lines)
    assert lines == said


def test_epochs_are_those_of_the_last_stage():
    entry, _, recipe = recipes.recipe_of("bert/smoke", {"device": "cpu"})
    first, last = entry.module().build(recipe)
    steps = execute.steps_of(entry, recipe, 1.5)
    print(first.examples, last.examples, steps)
    assert (first.examples.unit, last.examples.unit) == ("rows", "texts")
    assert steps == -(-3 * last.examples.train // (2 * recipe.batch_size))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lenet5", "--epochs", "1", "--steps", "5"), "steps or epochs, not both"),
        (("lenet5", "--epochs", "0"), "must be a positive number, not 0"),
        (("lenet5", "--epochs", "nan"), "must be a positive number, not nan"),
        (("dqn/smoke", "--epochs", "1"), "dqn has no epochs"),
        (("rnn/adding", "--epochs", "1"), "rnn has no epochs with synthetic: give --steps"),
    ],
)
def test_epochs_that_make_no_sense_are_refused(words, said, tmp_path, capsys):
    assert said in assert_rejected(capsys, "train", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_train_help_says_what_the_defaults_come_to(capsys):
    out = " ".join(run_cli(capsys, "train", "lenet5", "--help")[1].split())
    assert "200 rows, every 8)" in out
    assert (
        "at most 20 evaluations of 1,500, every 75, and fewer where they would take more than a tenth" in out
    )
    assert "training begins with what it comes to" in out
