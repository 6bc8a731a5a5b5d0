"""The bible's verses and their gold links: words numbered as in `split()`, in both directions."""

import io
import json
import zipfile

import pytest

from torchstone.data import download
from torchstone.data.text import bible
from torchstone.data.text.parallel import read_pairs
from torchstone.errors import BadInput

GREEK = [
    ("n40001001001", "Βίβλος"),
    ("n40001001002", "γενέσεως"),
    ("n40001002001", "Ἀβραὰμ"),
    ("n40001003001", "μόνον"),  # has no translation
]
ENGLISH = [  # id, verse, text, whether no space follows
    ("40001001001", "40001001", "“", "y"),
    ("40001001002", "40001001", "The", ""),
    ("40001001003", "40001001", "book", "y"),
    ("40001001004", "40001001", ",", ""),
    ("40001001005", "40001001", "Abraham", ""),  # counted to the next verse there
    ("40001002001", "40001002", "Abraham", ""),
]
LINKS = [
    (["n40001001001"], ["40001001002", "40001001003"]),
    (["n40001001001", "n40001001002"], ["40001001004"]),
    (["n40001002001"], ["40001002001", "40001001005"]),
]


@pytest.fixture
def small(monkeypatch):
    """An archive of the same shape with two verses."""

    def table(header, rows):
        return "\n".join("\t".join(row) for row in [header, *rows])

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as opened:
        opened.writestr(bible.SOURCES, "\ufeff" + table(("id", "text"), GREEK))
        header = ("id", "source_verse", "text", "skip_space_after")
        opened.writestr(bible.TARGETS, table(header, ENGLISH))
        records = [{"source": a, "target": b} for a, b in LINKS]
        opened.writestr(bible.RECORDS, json.dumps({"records": records}))
    monkeypatch.setattr(download, "fetch_archive", lambda *_: zipfile.ZipFile(data))


def test_bible_links_number_words_with_punctuation(small):
    verses, description = bible.read()
    print(verses, description)
    first, second = verses
    assert (first.name, first.source, first.target) == ("40001001", "Βίβλος γενέσεως", "“The book, Abraham")
    # the first word is “The, the second book, with its comma
    assert first.links == {(0, 0), (0, 1), (1, 1)}
    assert second == ("40001002", "Ἀβραὰμ", "Abraham", {(0, 0)})  # the link across is lost
    assert "2 verses and 4 links" in description


def test_bible_swaps_links_with_sides(small):
    forward, backward = bible.read("grc", "en")[0], bible.read("en", "grc")[0]
    assert backward == [bible.swap_sides(verse) for verse in forward]
    assert backward[0].links == {(0, 0), (1, 0), (1, 1)}
    assert bible.gold_links(backward)["“The book, Abraham", "Βίβλος γενέσεως"] == backward[0].links


def test_bible_rejects_other_languages(small):
    for languages in (("de", "en"), ("grc", "grc"), ("grc", "de")):
        with pytest.raises(BadInput, match="from grc to en or back"):
            bible.read(*languages)
    with pytest.raises(BadInput, match="not de to en"):
        read_pairs("bible", "de", "en")


@pytest.mark.sweep
def test_bible_archive():
    verses, description = bible.read()
    print(description)
    assert len(verses) == 7_936
    assert sum(len(verse.links) for verse in verses) == 189_356
    inside = [
        0 <= i < len(verse.source.split()) and 0 <= j < len(verse.target.split())
        for verse in verses
        for i, j in verse.links
    ]
    assert all(inside)
    by_name = {verse.name: verse for verse in verses}
    love = by_name["62004008"]
    greek, english = love.source.split(), love.target.split()
    links = {(greek[i], english[j]) for i, j in love.links}
    assert {("θεὸς", "God"), ("ἀγάπη", "love."), ("ἐστίν", "is"), ("ὅτι", "because")} <= links
    data = read_pairs("bible")
    print(data.description)
    assert data.languages == ("grc", "en")
    parts = [set(part) for part in (data.train, data.val, data.test)]
    assert sum(map(len, parts)) == len(parts[0] | parts[1] | parts[2]) == 7_918
    gold = bible.gold_links(verses)
    assert all(pair in gold for part in parts for pair in part)
