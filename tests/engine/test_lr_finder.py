"""The learning-rate finder: the run is untouched to the bit, and the suggestion trains."""

import copy
import math

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone.engine.lr_finder import find_lr, suggest
from torchstone.engine.run import fit
from torchstone.runs.recipes import recipe_of


def build(name="lenet5/smoke", **fields):
    entry, _, recipe = recipe_of(name, {"device": "cpu", **fields})
    return next(iter(entry.module().build(recipe)))


def bits(tree):
    """Every tensor of a tree as bytes, everything else as it is."""
    if isinstance(tree, torch.Tensor):
        return tree.dtype, tuple(tree.shape), tree.detach().flatten().numpy().tobytes()
    if isinstance(tree, dict):
        return {key: bits(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [bits(value) for value in tree]
    return tree


def state_of(run):
    return bits({name: copy.deepcopy(item.state_dict()) for name, item in run.state.items()} | {"rng": torch.get_rng_state()})


CASES = {
    "adamw": {},
    "sgd with momentum, average, noise": {"optimizer": "sgd", "ema_decay": 0.9, "grad_noise": 0.01},
    "muon, plateau": {"optimizer": "muon", "lr_schedule": "plateau"},
}


@pytest.mark.parametrize("case", CASES)
def test_state_is_bit_equal_after_it(case):
    run = build(steps=12, **CASES[case])
    for _ in range(3):  # in the middle of a training
        run.update(next(run.stream))
    before = state_of(run)
    curve = find_lr(run, updates=30)
    print(case, curve.suggestion, len(curve.rates))
    assert state_of(run) == before


def test_training_after_it_has_the_same_bits(tmp_path):
    """Batch normalization, dropout and augmentation too."""
    weights = []
    for looks in (False, True):
        run = build("mlp/smoke", steps=12, batch_norm=True, dropout=0.2, augment="shift1")
        if looks:
            find_lr(run, updates=20)
        fit(run, tmp_path / str(looks), quiet=True)
        weights.append(bits(run.state["model"].state_dict()))
    assert weights[0] == weights[1]


def test_suggestion_is_where_the_loss_falls_fastest():
    """A loss of 2 − tanh over decades has its steepest point at 1e-3; one that rises has it at its start."""
    rates = [10 ** (-6 + 0.05 * i) for i in range(121)]
    curve = [2 - math.tanh(2 * (math.log10(rate) + 3)) for rate in rates]
    assert suggest(rates, curve) == pytest.approx(1e-3, rel=0.1)
    assert suggest(rates, [float(i) for i in range(121)]) == rates[0]


def test_suggestion_trains_well():
    """The loss at the suggested rate after 60 steps is below that at a hundredth of it."""
    found = find_lr(build(augment="none"), updates=80).suggestion
    losses = []
    for lr in (found, found / 100):
        run = build(lr=lr, augment="none")
        for _ in range(60):
            run.update(next(run.stream))
        losses.append(run.evaluate()["loss"])
    print(found, losses)
    assert losses[0] < losses[1]


def test_command_prints_and_draws(capsys, tmp_path):
    code, out, _ = run_cli(capsys, "train", "lenet5/smoke", "--find-lr", "--out", tmp_path / "lr")
    assert code == 0
    assert "suggested lr" in out
    assert sorted(file.name for file in (tmp_path / "lr").iterdir()) == ["lr_finder.json", "lr_finder.png"]
    assert min(Image.open(tmp_path / "lr" / "lr_finder.png").size) > 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gan/smoke",), "has 2 that work against each other"),
        (("perceptron/smoke",), "no optimizer whose learning rate"),
        (("lenet5/smoke", "--patience", "3"), "--find-lr does not train: leave out --patience"),
    ],
)
def test_what_has_no_curve_is_refused(capsys, tmp_path, words, message):
    assert message in assert_rejected(capsys, "train", *words, "--find-lr", "--out", tmp_path / "lr")
    assert not (tmp_path / "lr").exists()


def test_python_interface(tmp_path):
    found = ts.find_lr("lenet5/smoke", out=tmp_path / "lr", batch_size=16)
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    assert found["lr"] in found["rates"]
