"""The Greek New Testament beside an English translation, and which words answer which, told by hand.

The Greek is the SBL edition (without marks between the words), the English the Berean Standard Bible
(public domain); words were linked by Clear Bible (CC BY 4.0). Read out of the archive of
bible-alignments. The first three gospels tell much in the same words: verses that are cut off for a
test have near doubles among the others.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from torchstone.data import download
from torchstone.errors import BadInput

ARCHIVE = (
    "bible-alignments==0.4.2",
    "84f6b15e706657777824aac811567cb5cb2b38ad2b94497209f5f3c3f67b0984",
    8.8,
)
GREEK, ENGLISH = "grc", "en"
SOURCES = "data/sources/SBLGNT.tsv"
TARGETS = "data/eng/targets/BSB/nt_BSB.tsv"
RECORDS = "data/eng/alignments/BSB/SBLGNT-BSB-manual.json"

Links = frozenset[tuple[int, int]]


class Verse(NamedTuple):
    """A verse twice; `links` join the words of `source` to those of `target`, as `split()` has them.

    `name` is book (40 is Matthew), chapter and verse: two, three and three digits.
    """

    name: str
    source: str
    target: str
    links: Links


def read(source: str = GREEK, target: str = ENGLISH) -> tuple[list[Verse], str]:
    """Every verse there is on both sides, in order, and a line on where they are from.

    Raises:
        BadInput: other languages than Greek and English, or the archive cannot be fetched.
    """
    if {source, target} != {GREEK, ENGLISH}:
        raise BadInput(f"the bible is read from {GREEK} to {ENGLISH} or back, not {source} to {target}")
    with download.archive(*ARCHIVE) as opened:
        greek, english = (_rows(opened.read(name)) for name in (SOURCES, TARGETS))
        records = json.loads(opened.read(RECORDS))["records"]
    spaced = ((row["id"][1:], row["id"][1:9], row["text"], True) for row in greek)
    marked = ((row["id"], row["source_verse"], row["text"], not row["skip_space_after"]) for row in english)
    (texts, places), (others, there) = _verses(spaced), _verses(marked)
    links: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for record in records:
        ends = [places[word[1:]] for word in record["source"]]
        for verse, j in (there[word] for word in record["target"]):
            # a few of the translation's verses begin where another one does: links across are lost
            links[verse].update((i, j) for home, i in ends if home == verse)
    verses = [Verse(n, text, others[n], frozenset(links[n])) for n, text in texts.items() if n in others]
    if source == ENGLISH:
        verses = [swap_sides(verse) for verse in verses]
    count = sum(len(verse.links) for verse in verses)
    said = f"{len(verses):,} verses and {count:,} links of words, from {ARCHIVE[0].replace('==', ' ')}"
    return verses, said


def swap_sides(verse: Verse) -> Verse:
    """The other way round."""
    links = frozenset((j, i) for i, j in verse.links)
    return Verse(verse.name, verse.target, verse.source, links)


def gold_links(verses: Iterable[Verse]) -> dict[tuple[str, str], Links]:
    """The links of a pair of texts, by the pair."""
    return {(verse.source, verse.target): verse.links for verse in verses}


def _rows(data: bytes) -> list[dict[str, str]]:
    text = io.StringIO(data.decode("utf-8-sig"))
    return list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))


def _verses(
    tokens: Iterable[tuple[str, str, str, bool]],
) -> tuple[dict[str, str], dict[str, tuple[str, int]]]:
    """From (id, verse, text, whether a space follows) to the text of each verse, and to the verse and
    the word of it that each token stands in."""
    texts: dict[str, str] = defaultdict(str)
    places: dict[str, tuple[str, int]] = {}
    for name, verse, text, space in tokens:
        before = texts[verse]
        begins = not before or before.endswith(" ")
        places[name] = verse, len(before.split()) - (not begins)
        texts[verse] = before + text + " " * space
    return {verse: text.strip() for verse, text in texts.items()}, places
