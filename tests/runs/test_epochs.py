"""Steps and epochs, and how often a run is evaluated by default."""

import json

import pytest
from cli_helpers import assert_rejected, run_cli

from torchstone.engine.run import EVALUATION_SHARE, FORWARDS, Examples, Intervals


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
    ("words", "said"),
    [
        (("lenet5", "--epochs", "1", "--steps", "5"), "steps or epochs, not both"),
        (("lenet5", "--epochs", "0"), "must be a positive number, not 0"),
        (("lenet5", "--epochs", "nan"), "must be a positive number, not nan"),
        (("dqn/smoke", "--epochs", "1"), "dqn has no epochs"),
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
