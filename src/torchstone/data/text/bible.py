"""The Greek New Testament with an English translation, and word alignments made by hand.

The Greek is the SBL edition (without marks between the words), the English the Berean Standard Bible
(public domain); words were aligned by Clear Bible (CC BY 4.0). It is read from the archive of
bible-alignments. The first three gospels share much of their wording: verses that are held out for testing
have near duplicates among the others.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from torchstone.data import download
from torchstone.errors import BadInput

ARCHIVE = ("bible-alignments==0.4.2", "84f6b15e706657777824aac811567cb5cb2b38ad2b94497209f5f3c3f67b0984", 8.8)
GREEK, ENGLISH = "grc", "en"
SOURCES = "data/sources/SBLGNT.tsv"
TARGETS = "data/eng/targets/BSB/nt_BSB.tsv"
RECORDS = "data/eng/alignments/BSB/SBLGNT-BSB-manual.json"

Links = frozenset[tuple[int, int]]


class Verse(NamedTuple):
    """A verse in both languages; `links` align the words of `source` and `target`, numbered as in `split()`.

    `name` is book (40 is Matthew), chapter and verse: two, three and three digits.
    """

    name: str
    source: str
    target: str
    links: Links


def read(source: str = GREEK, target: str = ENGLISH) -> tuple[list[Verse], str]:
    """Every verse that exists in both languages, in order, and a description of where they are from.

    Raises:
        BadInput: other languages than Greek and English, or the archive cannot be fetched.
    """
    if {source, target} != {GREEK, ENGLISH}:
        raise BadInput(f"the bible is read from {GREEK} to {ENGLISH} or back, not {source} to {target}")
    with download.fetch_archive(*ARCHIVE) as opened:
        greek, english = (_rows(opened.read(name)) for name in (SOURCES, TARGETS))
        records = json.loads(opened.read(RECORDS))["records"]
    spaced = ((row["id"][1:], row["id"][1:9], row["text"], True) for row in greek)
    marked = ((row["id"], row["source_verse"], row["text"], not row["skip_space_after"]) for row in english)
    (texts, words), (translations, translation_words) = _verses(spaced), _verses(marked)
    links: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for record in records:
        ends = [words[word[1:]] for word in record["source"]]
        for verse, j in (translation_words[word] for word in record["target"]):
            # a few verses begin elsewhere in the translation: links between two verses are lost
            links[verse].update((i, j) for source_verse, i in ends if source_verse == verse)
    verses = [
        Verse(name, text, translations[name], frozenset(links[name]))
        for name, text in texts.items()
        if name in translations
    ]
    if source == ENGLISH:
        verses = [swap_sides(verse) for verse in verses]
    count = sum(len(verse.links) for verse in verses)
    archive = ARCHIVE[0].replace("==", " ")
    return verses, f"{len(verses):,} verses and {count:,} links of words, from {archive}"


def swap_sides(verse: Verse) -> Verse:
    """The verse with source and target exchanged."""
    links = frozenset((j, i) for i, j in verse.links)
    return Verse(verse.name, verse.target, verse.source, links)


def gold_links(verses: Iterable[Verse]) -> dict[tuple[str, str], Links]:
    """The gold links of each pair of texts, by the pair."""
    return {(verse.source, verse.target): verse.links for verse in verses}


def _rows(data: bytes) -> list[dict[str, str]]:
    text = io.StringIO(data.decode("utf-8-sig"))
    return list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))


def _verses(
    tokens: Iterable[tuple[str, str, str, bool]],
) -> tuple[dict[str, str], dict[str, tuple[str, int]]]:
    """The text of each verse, and the verse and word that each token belongs to.

    Args:
        tokens: (id, verse, text, whether a space follows).
    """
    texts: dict[str, str] = defaultdict(str)
    words: dict[str, tuple[str, int]] = {}
    for name, verse, text, space in tokens:
        before = texts[verse]
        is_new_word = not before or before.endswith(" ")
        words[name] = verse, len(before.split()) - (not is_new_word)
        texts[verse] = before + text + " " * space
    return {verse: text.strip() for verse, text in texts.items()}, words
