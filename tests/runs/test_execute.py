"""What a run is made of before and after it is fitted: settings of a stage, steps counted over stages."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from torchstone.engine.best import BestWeights
from torchstone.engine.run import Intervals, Run
from torchstone.errors import BadInput
from torchstone.runs.execute import stage_settings
from torchstone.runs.folder import write_result


def run_of(best_metric, **measured):
    return SimpleNamespace(best_metric=best_metric, evaluate=lambda: measured)


def test_stage_settings_refuse_what_validation_cannot_be_judged_by():
    run = run_of("accuracy", accuracy=0.5, loss=1.0, coverage=0.7, own_thing=3.0)
    for metric in (None, "accuracy", "loss", "own_thing"):
        settings = Intervals(best_metric=metric, patience=3)
        assert stage_settings(run, settings, "lenet5", 0) is settings
    for metric, said in [
        ("acuracy", "validation has no metric 'acuracy': did you mean accuracy"),
        ("coverage", "only describes: neither more nor less of it is better; there are: accuracy, loss, own"),
    ]:
        with pytest.raises(BadInput, match=said) as refused:
            stage_settings(run, Intervals(best_metric=metric), "lenet5", 0)
        print(refused.value)
    with pytest.raises(BadInput, match="patience needs a metric of validation"):
        stage_settings(run_of(None, loss=1.0), Intervals(patience=3), "lenet5", 0)
    with pytest.raises(BadInput, match=r"'loss' .* only describes"):  # of a GAN, that of its game
        stage_settings(run_of("frechet_distance", loss=1.0), Intervals(best_metric="loss"), "gan", 0)


def test_stage_settings_of_a_later_stage_fall_back_to_its_own(capsys):
    settings = Intervals(best_metric="cross_entropy", patience=3)
    found = stage_settings(run_of("accuracy", accuracy=0.5), settings, "bert", 1)
    assert found == dataclasses.replace(settings, best_metric="accuracy")
    found = stage_settings(run_of(None, loss=0.5), settings, "bert", 1)
    assert found == dataclasses.replace(settings, best_metric=None, patience=None)
    said = capsys.readouterr().err
    print(said)
    assert "stage 2: validation has no metric 'cross_entropy'" in said
    assert "kept by its own accuracy" in said
    assert "its last weights count" in said


def test_result_counts_the_steps_of_the_stages_before(tmp_path):
    """The best stood as `step 2 of 12` where 10 steps of pre-training came first."""
    row = {"step": 12, "split": "val", "time": 1.0, "accuracy": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    run = Run(iter(()), dict, dict, {}, steps=3, metadata={"classes": ["a", "b", "c"]}, step=2)
    run.best = BestWeights("accuracy", None, {})
    run.best.consider(1, {"accuracy": 0.5}, {})
    write_result(tmp_path, "bert", "smoke", run, 10 + run.step)
    result = json.loads((tmp_path / "result.json").read_text())
    print(result)
    assert (result["best"]["step"], result["steps"], result["planned_steps"]) == (11, 12, 13)
    assert result["classes"] == 3
    assert run.best.step == 1
