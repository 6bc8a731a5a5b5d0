"""Several seeds of a recipe: a run each and one record, which a kill does not change."""

import json

import pytest

import torchstone as ts
from torchstone.cli.main import main
from torchstone.errors import BadInput
from torchstone.runs import seeds


def told(folder):
    """The record without what a clock says."""
    record = json.loads((folder / "record.json").read_text())
    return {k: v for k, v in record.items() if k not in ("seconds", "environment")}


def test_a_record_of_three_seeds_is_that_of_three_runs(tmp_path, capsys):
    folder = tmp_path / "three"
    assert (
        main(["train", "lenet5/smoke", "--seeds", "3", "--seed", "4", "--steps", "8", "--out", str(folder)])
        == 0
    )
    said = capsys.readouterr().out
    record = told(folder)
    singly = [ts.train("lenet5/smoke", steps=8, seed=s, out=tmp_path / str(s), quiet=True) for s in (4, 5, 6)]
    values = record["metrics"]["test/accuracy"]["values"]
    print(values, said)
    assert record["seeds"] == [4, 5, 6]
    assert values == [run.results["test/accuracy"] for run in singly]
    assert record["metrics"]["test/accuracy"]["mean"] == pytest.approx(sum(values) / 3)
    assert len(set(values)) > 1, "seeds that give the same are no seeds"
    assert "3 seeds" in said
    assert "interquartile mean" in said
    assert (folder / "curves.png").stat().st_size > 5000
    rows = ts.compare([folder], out=tmp_path / "c.png")
    assert [row["seed"] for row in rows] == [4, 5, 6]
    with pytest.raises(BadInput, match="seed-4"):
        ts.evaluate(folder)


def test_stopped_between_and_within_runs_it_goes_on_to_the_same_record(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    ts.train("lenet5/smoke", steps=8, seeds=2, out=whole, quiet=True)
    cut, execute, asked = tmp_path / "cut", seeds.execute, []

    def stops(entry, name, recipe, folder, clock, quiet, *, fresh):
        asked.append((recipe.seed, fresh))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return execute(entry, name, recipe, folder, clock, quiet, fresh=fresh)

    monkeypatch.setattr(seeds, "execute", stops)
    with pytest.raises(KeyboardInterrupt):
        ts.train("lenet5/smoke", steps=8, seeds=2, out=cut, quiet=True)
    assert not (cut / "record.json").exists()
    ts.resume(cut, quiet=True)
    print(asked)
    assert asked == [(0, True), (1, True), (1, True)]
    assert told(cut) == told(whole)


def test_a_wrong_number_of_seeds_is_refused(tmp_path, capsys):
    assert main(["train", "lenet5/smoke", "--seeds", "0", "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
    assert "--seeds" in capsys.readouterr().err
