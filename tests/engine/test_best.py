"""The best weights: kept by validation, tested, resumed to the bit; patience stops at the same step."""

import json

import pytest
import torch
from torch import nn
from toy_systems import TOYS, Crash, cut, rows

from torchstone.engine import checkpoint
from torchstone.engine.best import BestWeights
from torchstone.engine.run import Intervals, Run, fit
from torchstone.errors import BadInput

VALUES = [0.1, 0.5, 0.4, 0.7, 0.7, 0.2, 0.7, 0.3, 0.6, 0.1, 0.0]  # of validation at steps 0, 1, 2, …


class Counter:
    """Batches 1, 2, 3 …"""

    def __init__(self):
        self.number = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.number += 1
        return self.number

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


def script(values=VALUES, steps=10, metric="accuracy", losses=None) -> Run:
    """The weight is the number of the step, and validation of it is as written."""
    model, stream = nn.Linear(1, 1), Counter()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)

    def update(number):
        with torch.no_grad():
            model.weight.fill_(number)
        return {"loss": 0.0}

    def evaluate():
        step = int(model.weight.item())
        return {metric: values[step]} | ({"loss": losses[step]} if losses else {})

    run = Run(stream, update, evaluate, {"model": model, "stream": stream}, steps, best_metric=metric)
    run.test = lambda: {"weight": model.weight.item()}
    return run


EVERY = Intervals(log=1, evaluate=1, save=1)


def test_fit_tests_the_best_weights_and_ends_with_the_last(tmp_path):
    run = script()
    fit(run, tmp_path, intervals=EVERY, quiet=True)
    found, meta, _ = checkpoint.find(tmp_path / "checkpoint")
    best, last = (checkpoint.weights(found, meta, last=last)[0]["weight"].item() for last in (False, True))
    print(run.results, meta["best"], best, last)
    assert run.results == {"val/accuracy": 0.7, "test/weight": 6.0}  # of three equal ones the latest
    assert (best, last, run.state["model"].weight.item()) == (6.0, 10.0, 10.0)
    with run.best_weights():
        assert run.state["model"].weight.item() == 6.0
    assert run.state["model"].weight.item() == 10.0


@pytest.mark.parametrize(
    ("metric", "losses", "step"),
    [("accuracy", None, 6), ("error", None, 10), ("accuracy", [*[9.0] * 4, 0.1, 9.0, 0.2, *[0.0] * 4], 4)],
)
def test_best_weights_go_by_the_metric_s_direction_then_by_the_loss(metric, losses, step):
    run = script(metric=metric, losses=losses)
    fit(run, intervals=EVERY, quiet=True)
    print(metric, losses, run.best.about())
    assert run.best.step == step


@pytest.mark.parametrize(("patience", "stop"), [(1, 2), (2, 5), (3, 6), (4, 7), (9, 10), (None, 10)])
def test_patience_stops_after_so_many_evaluations_without_a_better_one(patience, stop, tmp_path):
    run = script()
    intervals = Intervals(log=4, evaluate=1, save=100, patience=patience)
    fit(run, tmp_path, intervals=intervals, quiet=True)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    print(patience, run.step, run.results, [(row["step"], row["split"]) for row in logged])
    assert run.step == stop
    assert logged[-1]["split"] == "test"
    assert max(row["step"] for row in logged if row["split"] == "train") == stop
    again = script()
    fit(again, tmp_path, intervals=intervals, quiet=True)  # finished: nothing more is done
    assert (again.step, again.results) == (run.step, run.results)


@pytest.mark.parametrize("after", range(1, 7))
def test_best_weights_and_patience_resume_exactly(after, tmp_path):
    intervals = Intervals(log=3, evaluate=1, save=2, patience=4)
    values = [0.1, 0.5, 0.4, 0.9, *VALUES[4:]]  # the checkpoints at steps 4 and 6 hold the weights of step 3
    whole = script(values)
    fit(whole, tmp_path / "whole", intervals=intervals, quiet=True)
    with pytest.raises(Crash):
        fit(cut(script(values), after), tmp_path / "cut", intervals=intervals, quiet=True)
    run = script(values)
    fit(run, tmp_path / "cut", intervals=intervals, quiet=True)
    files = [checkpoint.find(tmp_path / name / "checkpoint")[0] for name in ("whole", "cut")]
    print(after, run.step, run.best.about(), sorted(f.name for f in files[0].iterdir()))
    assert (run.step, run.best.about(), run.results) == (whole.step, whole.best.about(), whole.results)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert (files[0] / "best.safetensors").read_bytes() == (files[1] / "best.safetensors").read_bytes()


@pytest.mark.parametrize("name", TOYS)
def test_best_weights_leave_training_alone(name, tmp_path):
    def go(metric):
        run = TOYS[name](0, 12)
        run.best_metric = metric
        fit(run, intervals=Intervals(evaluate=3), quiet=True)
        modules = [item for item in run.state.values() if isinstance(item, nn.Module)]
        return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])

    metric = next(iter(TOYS[name](0, 1).evaluate()))
    kept, plain = go(metric), go(None)
    print(name, metric, len(kept), "weights compared")
    assert kept.equal(plain)


def test_best_metric_that_is_not_measured_is_refused():
    run = script()
    with pytest.raises(BadInput, match="no metric 'accurracy': did you mean accuracy"):
        fit(run, intervals=Intervals(best_metric="accurracy"), quiet=True)
    with pytest.raises(BadInput, match="patience needs a metric"):
        BestWeights(None, 3, {})


def test_evaluate_all_measures_the_kept_weights_once_at_the_end(tmp_path):
    run = script()
    run.evaluate_all = lambda: {"accuracy": 100 + run.state["model"].weight.item()}
    fit(run, tmp_path, intervals=EVERY, quiet=True)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = [row["accuracy"] for row in logged if row["split"] == "val"]
    print(seen, run.results)
    assert seen == [*VALUES[:-1], 106.0]
    assert run.results["val/accuracy"] == 106.0
