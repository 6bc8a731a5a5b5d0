"""The metrics of each system: all systems, each metric with its legend, in `show` and in the pages."""

import pytest

from torchstone.cli.show import show
from torchstone.runs.records import read
from torchstone.systems import CATALOGUE
from torchstone.systems.metric_names import METRICS, is_known, legends_of, metrics_of
from torchstone.tools.docs import metrics


def test_metric_names_cover_the_catalogue():
    print(len(METRICS), "systems")
    assert METRICS.keys() == {entry.name for entry in CATALOGUE}
    for system in METRICS:
        names = [name for name, _ in legends_of(system)]
        assert names == metrics_of(system), set(metrics_of(system)) - set(names)
        assert len(names) == len(set(names)), system


def test_metric_names_cover_the_records():
    names = {(r.system, n.rpartition("/")[2]) for r in read() for n in (r.metric, *r.baselines)}
    # `untrained` is the metric itself before training
    missing = sorted(pair for pair in names if not is_known(*pair) and pair[1] != "untrained")
    print(f"{len(names)} metrics of records; without a name: {missing}")
    assert not missing


def test_records_know_which_way_is_better():
    down = sorted({r.metric for r in read() if r.falls})
    up = sorted({r.metric for r in read() if not r.falls})
    print("lower", down, "higher", up)
    assert "test/loss" in down
    assert "test/bits_per_dimension" in down
    assert not set(down) & set(up)
    assert {"test/accuracy", "test/return", "test/bleu"} <= set(up)


@pytest.mark.parametrize("system", ["perceptron", "ppo"])
def test_show_and_page_have_every_legend(system, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    show(system)
    shown = capsys.readouterr().out
    rows = metrics(system)
    print(shown[shown.index("metrics") :][:2000])
    for name, meaning in legends_of(system):
        assert any(line.split()[:1] == [name] and meaning.title in line for line in shown.splitlines()), name
    assert [row[0].strip("`") for row in rows] == metrics_of(system)
