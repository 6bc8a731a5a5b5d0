"""Sentence pairs from programs' message catalogs: their user interface in two languages.

The catalogs are GNU gettext's (.mo), inside the archives of three programs. They are read at run time and
belong to their translators: gramps GPL-2.0-or-later, pretix AGPL-3.0 with further terms,
Django BSD-3-Clause.
"""

import gettext
import io
import re
import struct

from torchstone.data import download
from torchstone.errors import BadInput, first_line

PROGRAMS = (
    ("pretix==2026.8.0", "a78932e698778d873530d67f25a57c28d1c09b1bfb1a22ec817c00d90397db85", 39.5),
    ("gramps==6.0.8", "56f03bcb643320eb9f9892d4c3f8bbe7c4c4d2e4c71e56f598584af24561ec1c", 17.1),
    ("django==5.2.19", "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00", 8.3),
)
ORIGINAL = "en"  # language of the programs themselves
# what the library raises on damaged catalogs, as observed
DAMAGED = (OSError, ValueError, LookupError, TypeError, RecursionError, SyntaxError, struct.error)
MAX_LENGTH = 300  # characters; longer messages are letters and pages of help

_PLACEHOLDER = re.compile(
    r"%%|%\([\w.-]+\)[-+0-9.]*[a-zA-Z]?|%[-+0-9.]*[sdifgrxc]\b|\{[^{}\s]*\}|https?://\S+"
)
_TAG = re.compile(r"</?(?:a|b|i|p|em|br|li|ul|ol|tt|big|code|span|small|strong)(?:\s[^<>]*)?/?>")
_KEY = re.compile(r"[_&](?=[^\W\d_])")  # marks the keyboard shortcut of a menu entry


def read(source: str, target: str) -> tuple[list[tuple[str, str]], str]:
    """Pairs of messages in two languages, without duplicates, and a description of where they are from.

    Placeholders become {1}, {2} and so on, the same on both sides; tags and shortcut marks are removed.
    Left out are messages whose placeholders differ between the sides, that are the same in both
    languages, or that have no word.

    Raises:
        BadInput: the programs are not translated into such a language, or cannot be fetched.
    """
    pairs: dict[tuple[str, str], None] = {}
    for program in PROGRAMS:
        with download.fetch_archive(*program) as opened:
            sides = [_messages(opened, language) for language in (source, target)]
        for side, other, language in zip(sides, sides[::-1], (source, target), strict=True):
            if language == ORIGINAL:  # the context of a message precedes \x04
                side |= {key: key.split("\x04")[-1] for key in other}
        for key in sorted(sides[0].keys() & sides[1].keys()):
            if len(key) < MAX_LENGTH:
                pair = clean_pair(sides[0][key], sides[1][key])
                if pair is not None:
                    pairs[pair] = None
    names = ", ".join(program[0].replace("==", " ") for program in PROGRAMS)
    if not pairs:
        raise BadInput(
            f"the catalogs of {names} have no pair of {source!r} and {target!r}: use codes such as "
            "en, de, fr, es"
        )
    return list(pairs), f"messages of {names}"


def _messages(opened, language: str) -> dict[str, str]:
    """The messages in a language, by the program's key; plural forms are left out.

    Raises:
        BadInput: a catalog is damaged.
    """
    pattern = re.compile(rf"/{re.escape(language)}/LC_MESSAGES/\w+\.mo$")
    messages: dict[str, str] = {}
    for name in sorted(opened.namelist()):
        if pattern.search(name):
            try:
                catalog = gettext.GNUTranslations(io.BytesIO(opened.read(name)))
            except DAMAGED as error:
                raise BadInput(f"the catalog {name} cannot be read ({first_line(error)})") from None
            for key, text in vars(catalog)["_catalog"].items():
                if isinstance(key, str) and key and text:
                    messages.setdefault(key, text)
    return messages


def clean_pair(source: str, target: str) -> tuple[str, str] | None:
    """Both sides without placeholders, tags and shortcut marks; None where no pair of sentences is left."""
    numbers: dict[str, str] = {}
    sides = []
    for text in (source, target):
        text = _PLACEHOLDER.sub(lambda match: numbers.setdefault(match[0], f"{{{len(numbers) + 1}}}"), text)
        text = _KEY.sub("", _TAG.sub(" ", text))
        sides.append(" ".join(text.split()))
    values = [sorted(re.findall(r"\{\d+\}", text)) for text in sides]
    words = [re.search(r"[^\W\d_]{2}", re.sub(r"\{\d+\}", "", text)) for text in sides]
    if values[0] != values[1] or not all(words) or sides[0] == sides[1]:
        return None
    return sides[0], sides[1]
