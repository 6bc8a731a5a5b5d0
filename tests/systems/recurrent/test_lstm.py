"""RNN, LSTM and GRU as systems: parity detects faults, variants, and every task from the command line."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli_helpers import run_cli
from PIL import Image
from torch import nn

import torchstone as ts
from torchstone import systems
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.parts.recurrent.layers import Cell
from torchstone.systems.recurrent import gru, lstm, rnn
from torchstone.tasks import recurrent
from torchstone.verify import verify


def gates_swapped(x, state, weight, bias):
    h, c = state
    f, i, g, o = (x + F.linear(h, weight, bias)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def cell_not_squashed(x, state, weight, bias):
    h, c = state
    i, f, g, o = (x + F.linear(h, weight, bias)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c, c


def reset_before(x, state, weight, bias):
    return gru.step_cho(x, state, weight, bias)


def update_turned_round(x, state, weight, bias):
    (h,) = state
    (new,) = gru.step(x, state, weight, bias)
    return (2 * h - new,)


@pytest.mark.parametrize(
    ("module", "fault"),
    [(lstm, gates_swapped), (lstm, cell_not_squashed), (gru, reset_before), (gru, update_turned_round)],
    ids=lambda each: each.__name__.rpartition(".")[2],
)
def test_cell_parity_detects_faults(module, fault, monkeypatch):
    cell = module.CELL
    broken = Cell(cell.name, cell.gates, fault, cell.fused, cell.states)
    monkeypatch.setattr(module, "CELL", broken)
    found = verify(systems.find(cell.name)[0])
    wrong = [check.name for check in found if not check.passed]
    print(len(wrong), "of", len(found), wrong[:2])
    assert len(wrong) > 5
    assert all("reference" in name or "by units" in name for name in wrong)


def test_variant_loads_torch_weights():
    """By the names that nn.LSTM and nn.Linear give them."""
    net = nn.LSTM(88, 128, batch_first=True)
    head = nn.Linear(128, 88)
    model = ts.create("lstm")
    tensors = {f"recurrent.{name}": each for name, each in net.state_dict().items()}
    tensors |= {f"head.{name}": each for name, each in head.state_dict().items()}
    model.load_state_dict(tensors)
    x = torch.randn(2, 7, 88)
    assert torch.allclose(model(x), head(net(x)[0]), atol=1e-6)
    assert ts.create("lstm", hidden=16, layers=3).recurrent.layers == 3
    with pytest.raises(BadInput, match="no fused kernel"):
        ts.create("gru_cho", implementation="fused")


@pytest.mark.parametrize(
    ("module", "variant", "wanted"),
    [
        (lstm, "lstm", {"hidden": 128}),
        (lstm, "bilstm", {"bidirectional": True, "hidden": 100}),
        (lstm, "lstm_ptb_small", {"hidden": 200, "layers": 2}),
        (gru, "gru_cho", {"implementation": "reference", "hidden": 128}),
        (rnn, "rnn", {"hidden": 128}),
    ],
)
def test_build_run_takes_open_fields_from_variant(module, variant, wanted, monkeypatch):
    recipe = replace_fields(module.RECIPES["smoke"], {"variant": variant, "hidden": None})
    seen = {}

    class Stop(Exception):
        pass

    def build(recipe, cell):
        seen.update(dataclasses.asdict(recipe.network), cell=cell.name)
        raise Stop

    monkeypatch.setattr(recurrent, "task_module", lambda task: SimpleNamespace(build=build))
    with pytest.raises(Stop):
        next(iter(module.build(recipe)))
    net = ts.create(variant)
    assert seen["cell"] == net.recurrent.cell.name
    for name, value in wanted.items():
        assert getattr(net.recurrent, name) == value
        assert seen[name] == value
    with pytest.raises(Stop):
        next(iter(module.build(replace_fields(recipe, {"hidden": 7}))))
    assert seen["hidden"] == 7


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "rhyme.txt"
    file.write_text("".join(f"{i % 7} and {i % 7} are {i % 7 * 2}.\n" for i in range(400)))
    return file


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "text"
    fields = {"data": str(text), "hidden": 24, "steps": 400, "device": "cpu"}
    ts.train("lstm/smoke", out=folder, quiet=True, **fields)
    return folder


@pytest.mark.sweep
def test_language_model_learns_predicts_and_samples(trained, text, tmp_path, capsys):
    results = json.loads((trained / "result.json").read_text())["metrics"]
    assert results["test/loss"] < 0.5, "the numbers follow from the text"
    _, out, _ = run_cli(capsys, "eval", trained, "--json")
    assert json.loads(out)["loss"] == pytest.approx(results["test/loss"], rel=1e-5)
    other = shutil.copy(text, tmp_path / "other.txt")
    _, out, _ = run_cli(capsys, "eval", trained, "--data", other, "--json")
    assert json.loads(out)["loss"] == pytest.approx(results["test/loss"], rel=1e-5)  # the same data, copied
    other.write_text(text.read_text()[:3000])
    _, out, _ = run_cli(capsys, "eval", trained, "--data", other, "--json")
    assert json.loads(out)["characters"] == 3000
    begun = "0 and 0 are 0.\n1 and 1 are 2.\n2 and 2 are"
    _, out, _ = run_cli(capsys, "predict", trained, begun)
    assert out.startswith(f"{begun} 4.\n3 and 3 are 6.\n")
    asked = ("sample", trained, "--prompt", begun, "--top-k", "1", "--max-new-tokens", "40")
    _, out, _ = run_cli(capsys, *asked)
    assert out.startswith(f"{begun} 4.\n3 and 3 are 6.\n")
    assert len(out) == len(begun) + 40 + 1
    drawn = [run_cli(capsys, "sample", trained, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    code, _, err = run_cli(capsys, "sample", trained, "--prompt", "€")
    assert code == 2
    assert "'€' is none of the" in err
    assert (trained / "pictures" / "sample.txt").exists()


@pytest.mark.sweep
def test_resume_restores_hidden_state_within_epoch(text, tmp_path):
    """Law 2 does it for every system; here with the state of two layers, and an odd batch."""
    fields = {"data": str(text), "hidden": 8, "layers": 2, "batch_size": 3, "steps": 30, "device": "cpu"}
    whole = ts.train("gru/smoke", out=tmp_path / "whole", quiet=True, **fields)
    plain, count = torch.optim.Adam.step, 0

    def step(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == 17:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    torch.optim.Adam.step = step
    try:
        with pytest.raises(KeyboardInterrupt):
            ts.train("gru/smoke", out=tmp_path / "cut", quiet=True, intervals={"save": 5}, **fields)
    finally:
        torch.optim.Adam.step = plain
    resumed = ts.resume(tmp_path / "cut", quiet=True)
    for name, weight in whole.state["model"].state_dict().items():
        assert torch.equal(weight, resumed.state["model"].state_dict()[name]), name
    pairs = zip(
        whole.state["hidden_state"].hidden_state, resumed.state["hidden_state"].hidden_state, strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)
    assert whole.results == resumed.results


@pytest.mark.sweep
def test_compare_plots_memory_problems(tmp_path, capsys):
    folders = []
    for name in ("rnn", "lstm", "gru"):
        folders.append(tmp_path / name)
        fields = {"hidden": 8, "steps": 4, "seq_len": 20, "batch_size": 4, "device": "cpu"}
        ts.train(f"{name}/adding", out=folders[-1], quiet=True, **fields)
        with Image.open(folders[-1] / "pictures" / "memory.png") as image:
            assert np.asarray(image).var() > 1
    rows = ts.compare(folders, out=tmp_path / "all.png")
    assert [row["system"] for row in rows] == ["rnn", "lstm", "gru"]
    assert all({"val/loss", "val/gradient/20", "test/loss"} <= row.keys() for row in rows)
    with Image.open(tmp_path / "all.png") as image:
        assert np.asarray(image).var() > 1
    _, out, _ = run_cli(capsys, "predict", folders[1], "0.5* 0.25 0.125*")
    assert -2 < float(out) < 3
    code, out, err = run_cli(capsys, "sample", folders[1])
    assert (code, out) == (2, "")
    assert "nothing to sample" in err


def test_show_prints_equations(capsys):
    _, out, _ = run_cli(capsys, "show", "lstm")
    for said in ("c = f ∘ c + i ∘ g", "h = o ∘ tanh(c)", "Hochreiter", "19,780,400", "adding"):
        assert said in out
    _, out, _ = run_cli(capsys, "show", "gru_cho")
    assert "n = tanh(W x + U (r ∘ h) + b)" in out
    assert "Recurrent" in out
    assert "83,712" in out
    assert "2,654,208" in out  # of 32 moments: 3 · 128 · (88 + 128) each
