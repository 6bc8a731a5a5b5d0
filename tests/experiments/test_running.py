"""Measuring a claim: seeds are kept one by one, numbers are those of the seed, the command line."""

import json
import math

import pytest
import torch

from torchstone.cli.main import main
from torchstone.experiments import page, reports, running
from torchstone.experiments.claims import sigmoid_vanishes, weight_sharing
from torchstone.experiments.training import balanced_index, steps_to
from torchstone.tools import claims

NAME = "sigmoid-vanishes"


@pytest.fixture
def small(monkeypatch):
    """The claim with one shallow depth: a tenth of a second a seed."""
    monkeypatch.setattr(sigmoid_vanishes, "DEPTHS", (2,))


def test_run_claim_measures_each_seed_once_and_goes_on(small, tmp_path, monkeypatch):
    first = running.run_claim(NAME, tmp_path / "a", (0, 1))
    assert (tmp_path / "a" / "figure.png").stat().st_size > 1000
    fresh = running.run_claim(NAME, tmp_path / "b", (1,))
    assert fresh.rows[0] == first.rows[1]  # to the bit, whatever was measured before
    assert first.rows[0] != first.rows[1]

    calls = []
    measure = sigmoid_vanishes.measure
    monkeypatch.setattr(sigmoid_vanishes, "measure", lambda seed: calls.append(seed) or measure(seed))
    again = running.run_claim(NAME, tmp_path / "a", (0, 1, 2))
    assert calls == [2]
    assert again.rows[:2] == first.rows


def test_run_claim_stopped_in_a_seed_keeps_those_before(small, tmp_path, monkeypatch):
    measure = sigmoid_vanishes.measure

    def stops(seed):
        if seed == 1:
            raise KeyboardInterrupt
        return measure(seed)

    monkeypatch.setattr(sigmoid_vanishes, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        running.run_claim(NAME, tmp_path, (0, 1))
    assert json.loads((tmp_path / running.RESULT).read_text())["seeds"] == [0]


def test_claims_command_lists_shows_and_runs(small, tmp_path, capsys):
    assert main(["claims"]) == 0
    listed = capsys.readouterr().out
    assert "sigmoid-vanishes" in listed
    assert "neural networks" in listed
    assert main(["claims", "show", NAME]) == 0
    shown = capsys.readouterr().out
    assert "control:" in shown
    assert "verdict: holds" in shown
    assert main(["claims", "run", NAME, "--seeds", "3", "--out", str(tmp_path)]) == 0
    ran = capsys.readouterr()
    assert f"figure: {tmp_path / NAME / 'figure.png'}" in ran.out
    assert "one seed has no spread" in ran.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run"], "claims run wants a claim's name"),
        (["list", NAME], f"did you mean claims show {NAME}?"),
        (["run", "sigmoid"], "no claim 'sigmoid': did you mean sigmoid-vanishes?"),
        (["run", NAME, "no-such"], "no claim 'no-such'"),
        (["run", NAME, "--seeds", "1", "1"], "different whole numbers"),
        (["run", NAME, "--seeds", "-1"], "different whole numbers"),
        (["measure"], "no value 'measure' for action"),
    ],
)
def test_claims_command_bad_input_is_one_line_and_nothing_is_written(words, says, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["claims", *words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_claims_command_damaged_or_foreign_result_is_named(tmp_path, capsys):
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / running.RESULT).write_text("{}")
    assert main(["claims", "run", NAME, "--out", str(tmp_path)]) == 2
    assert "is no measurement of a claim" in capsys.readouterr().err
    (folder / running.RESULT).write_text(json.dumps({"claim": "dropout"}))
    assert main(["claims", "run", NAME, "--out", str(tmp_path)]) == 2
    assert "is of the claim dropout" in capsys.readouterr().err


def test_steps_to_is_the_first_full_window_at_the_level():
    losses = [4.0] * 30 + [1.0] * 30
    naive = next(n for n in range(20, 61) if sum(losses[n - 20 : n]) / 20 <= 1.3)
    assert steps_to(losses, 1.3) == naive
    assert steps_to(losses, 0.9) is None
    assert steps_to([0.1] * 19, 1.0) is None
    assert steps_to([1e30, *[2.0] * 60], 1.0) is None  # what diverges and comes back has not arrived
    assert steps_to([math.nan, *[2.0] * 60], 3.0) == 21


def test_balanced_index_takes_as_many_of_each_class():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 10)
    index = balanced_index(labels, 20, torch.Generator().manual_seed(0))
    counts = labels[index].bincount(minlength=3).tolist()
    print(counts)
    assert len(set(index.tolist())) == 20
    assert sorted(counts) == [6, 7, 7]
    other = balanced_index(labels, 20, torch.Generator().manual_seed(1))
    assert set(index.tolist()) != set(other.tolist())


def test_locally_connected_with_equal_weights_is_a_convolution():
    torch.manual_seed(0)
    layer = weight_sharing.LocallyConnected(2, 3, 5, 2, 11).double()
    shared = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(shared.flatten(1).expand_as(layer.weight))
    x = torch.randn(4, 2, 11, 11, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, shared, stride=2))
    layer.weight.data[0] += 1  # the first position's own
    difference = layer(x) - torch.nn.functional.conv2d(x, shared, stride=2)
    assert difference[:, :, 0, 0].abs().min() > 0
    assert difference.flatten(2)[:, :, 1:].abs().max() < 1e-12


def test_tools_claims_writes_record_and_figure(small, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "FOLDER", tmp_path / "records")
    monkeypatch.setattr(page, "FIGURES", tmp_path / "images")
    claims.measure(NAME, tmp_path / "runs")
    record = running.record_of(NAME)
    assert record is not None
    assert record.seeds == list(sigmoid_vanishes.CLAIM.seeds)
    assert record.environment["versions"]["torch"] == torch.__version__
    assert page.figure_of(NAME).exists()


def test_reports_say_that_one_seed_shows_nothing_and_why_there_is_no_record(capsys, monkeypatch, tmp_path):
    with monkeypatch.context() as without:
        without.setattr(running, "FOLDER", tmp_path)
        without.setitem(reports.UNMEASURED, "xavier-he", "not measured yet")
        reports.print_claim("xavier-he")
    assert "not measured yet" in capsys.readouterr().out
    reports.print_verdict(running.Measurement(NAME, [0], [{k: [-9.0] for k in sigmoid_vanishes.NETWORKS}]))
    assert "one seed: no interval" in capsys.readouterr().out
