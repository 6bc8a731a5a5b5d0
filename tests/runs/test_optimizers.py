"""Optimizers, schedules and averages as options of a run: refusals, usual values, kill and resume."""

import json
from types import SimpleNamespace

import pytest
import torch
from cli_helpers import assert_rejected
from safetensors.torch import load_file

import torchstone as ts
from torchstone.engine.run import Intervals
from torchstone.engine.update import GradientUpdate, OptimConfig
from torchstone.errors import BadInput
from torchstone.runs.execute import stage_settings
from torchstone.runs.recipes import recipe_of
from torchstone.tasks.optimization import make_lr_scheduler, make_optimizer


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lenet5/smoke", "--optimizer", "rmsprob"), "did you mean rmsprop?"),
        (("lenet5/smoke", "--optimizer-implementation", "mine"), "no value 'mine'"),
        (("perceptron", "--optimizer", "adam"), "perceptron has its learning rule as part of the system"),
        (("lola", "--optimizer", "adam"), "lola has its learning rule as part of the system"),
        (("ppo", "--optimizer", "muon"), "no value 'muon'"),
        (("lenet5/smoke", "--optimizer", "lion", "--momentum", "0.5"), "lion has beta1 and beta2"),
        (("lenet5/smoke", "--optimizer", "adagrad", "--beta1", "0.5"), "adagrad has neither"),
        (("lenet5/smoke", "--lr-schedule", "step", "--lr-period", "999"), "longer than the run"),
        (("lenet5/smoke", "--lr-period", "9"), "cosine has none"),
        (("lenet5/smoke", "--swa-start", "1"), "swa_start must be at least 0 and below 1"),
        (("gpt/smoke", "--ema-decay", "0.9", "--swa-start", "0.5"), "two averages of the weights"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(capsys, tmp_path, words, message):
    assert message in assert_rejected(capsys, "train", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_change_of_optimizer_brings_its_usual_values():
    def optim(**fields):
        found = recipe_of("lenet5/smoke", fields)[2].optim
        return found.momentum, found.beta2

    assert optim() == (0.9, 0.999)
    assert optim(optimizer="lion") == (0.9, 0.99)
    assert optim(optimizer="muon") == (0.95, 0.999)
    assert optim(optimizer="lion", beta2=0.5) == (0.9, 0.5)


def test_plateau_without_a_metric_of_validation_is_refused():
    optim = OptimConfig(lr_schedule="plateau")
    schedule = make_lr_scheduler(make_optimizer([torch.nn.Parameter(torch.zeros(1))], optim), optim, 10)
    run = SimpleNamespace(best_metric=None, state={"lr_schedule": schedule}, evaluate=dict)
    with pytest.raises(BadInput, match="plateau needs a metric of validation"):
        stage_settings(run, Intervals(), "lenet5", 0)
    with pytest.raises(BadInput, match="patience needs a metric of validation"):
        stage_settings(run, Intervals(patience=3), "lenet5", 0)


CASES = {
    "muon, plateau, noise": {"optimizer": "muon", "lr_schedule": "plateau", "lr_patience": 1, "grad_noise": 0.01},
    "lion, mean of weights": {"optimizer": "lion", "lr": 1e-3, "swa_start": 0.3, "lr_schedule": "warm_restarts"},
    "reference adam": {"optimizer": "adam", "optimizer_implementation": "reference", "l1_decay": 1e-4},
}  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_to_the_bit(case, tmp_path, monkeypatch):
    fields = {"steps": 24, "device": "cpu", **CASES[case]}
    intervals = {"save": 10, "evaluate": 4}
    ts.train("lenet5/smoke", out=tmp_path / "whole", intervals=intervals, quiet=True, **fields)
    call, calls = GradientUpdate.__call__, []

    def stops(self, batch):
        calls.append(1)
        if len(calls) == 17:
            raise RuntimeError("killed")
        return call(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(GradientUpdate, "__call__", stops)
        with pytest.raises(RuntimeError, match="killed"):
            ts.train("lenet5/smoke", out=tmp_path / "cut", intervals=intervals, quiet=True, **fields)
    ts.resume(tmp_path / "cut", quiet=True)
    first, second = (
        load_file(tmp_path / each / "checkpoint" / "model.safetensors") for each in ("whole", "cut")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    results = [
        json.loads((tmp_path / each / "result.json").read_text())["metrics"] for each in ("whole", "cut")
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("optimizer", ["lion", "rmsprop"])
def test_agents_take_an_optimizer_by_name(optimizer):
    """Their recipes have no betas and no momentum: what is usual for the optimizer is its own default."""
    recipe = recipe_of("ppo/smoke", {"optimizer": optimizer})[2]
    assert recipe.optimizer == optimizer
