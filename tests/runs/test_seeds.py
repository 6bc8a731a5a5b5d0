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


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds") / "two"
    options = ["--seeds", "2", "--seed", "4", "--steps", "8", "--out", str(folder)]
    assert main(["train", "lenet5/smoke", *options]) == 0
    return folder


@pytest.mark.sweep
def test_a_record_of_two_seeds_is_that_of_two_runs(two_seeds, tmp_path, capsys):
    record = told(two_seeds)
    singly = [ts.train("lenet5/smoke", steps=8, seed=s, out=tmp_path / str(s), quiet=True) for s in (4, 5)]
    values = record["metrics"]["test/accuracy"]["values"]
    print(values)
    assert record["seeds"] == [4, 5]
    assert values == [run.results["test/accuracy"] for run in singly]
    assert record["metrics"]["test/accuracy"]["mean"] == pytest.approx(sum(values) / 2)
    assert len(set(values)) > 1, "seeds that give the same are no seeds"
    assert (two_seeds / "curves.png").stat().st_size > 5000
    rows = ts.compare([two_seeds], out=tmp_path / "c.png")
    assert [row["seed"] for row in rows] == [4, 5]
    with pytest.raises(BadInput, match="seed-4"):
        ts.evaluate(two_seeds)


def test_stopped_between_and_within_runs_it_goes_on_to_the_same_record(
    two_seeds, tmp_path, monkeypatch, capsys
):
    cut, execute, asked = tmp_path / "cut", seeds.execute, []

    def stops(entry, name, recipe, folder, clock, quiet, *, fresh):
        asked.append((recipe.seed, fresh))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return execute(entry, name, recipe, folder, clock, quiet, fresh=fresh)

    monkeypatch.setattr(seeds, "execute", stops)
    with pytest.raises(KeyboardInterrupt):
        ts.train("lenet5/smoke", steps=8, seed=4, seeds=2, out=cut, quiet=True)
    assert not (cut / "record.json").exists()
    assert main(["resume", str(cut)]) == 0
    said = capsys.readouterr().out
    print(asked, said)
    assert "2 seeds" in said
    assert "interquartile mean" in said
    assert asked == [(4, True), (5, True), (5, True)]
    assert told(cut) == told(two_seeds)


def test_a_wrong_number_of_seeds_is_refused(tmp_path, capsys):
    assert main(["train", "lenet5/smoke", "--seeds", "0", "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
    assert "--seeds" in capsys.readouterr().err
