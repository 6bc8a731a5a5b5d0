"""Bach's four-part chorales: notes from the scores in music21's archive.

The scores are MusicXML with one part per voice; music21 itself is not needed to read them.
"""

import io
import re
import zipfile
from xml.etree import ElementTree

from torchstone.data import download
from torchstone.data.music.midi import Note

SCORES = ("music21==10.5.1", "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1", 20.1)
VOICES = ("soprano", "alto", "tenor", "bass")
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def read() -> dict[str, list[Note]]:
    """The notes of each chorale, ordered by work number; repeats are read once."""
    chorales = {}
    with download.fetch_archive(*SCORES) as opened:
        for name in sorted(opened.namelist(), key=_number):
            if re.fullmatch(r"music21/corpus/bach/bwv[^/]*\.(mxl|xml)", name):
                notes = chorale(opened.read(name))
                if notes:
                    chorales[name.rpartition("/")[2].rpartition(".")[0]] = notes
    return chorales


def chorale(score: bytes) -> list[Note]:
    """The notes of soprano, alto, tenor and bass in a score; none if it lacks one of the parts."""
    if score[:2] == b"PK":  # compressed: the score is the one file beside its manifest
        with zipfile.ZipFile(io.BytesIO(score)) as packed:
            (name,) = (n for n in packed.namelist() if n.endswith("xml") and not n.startswith("META-INF"))
            score = packed.read(name)
    root = ElementTree.fromstring(score)
    names = {
        part.get("id"): (part.findtext("part-name") or "").lower().split()
        for part in root.iterfind("part-list/score-part")
    }
    parts = [p for p in root.iterfind("part") if names[p.get("id")][:1] in [[v] for v in VOICES]]
    if len(parts) != len(VOICES):
        return []
    notes, begin = [], 0.0
    divisions = [1.0] * len(parts)
    for measures in zip(*(part.iterfind("measure") for part in parts), strict=True):
        longest = 0.0
        for i, measure in enumerate(measures):
            divisions[i], length = _measure(measure, begin, divisions[i], notes)
            longest = max(longest, length)
        begin += longest
    return notes


def _measure(
    measure: ElementTree.Element, begin: float, divisions: float, notes: list[Note]
) -> tuple[float, float]:
    """Append a measure's notes; return the divisions of a quarter that hold from here, and its length."""
    now = last = longest = 0.0
    for item in measure:
        if item.tag == "attributes":
            divisions = float(item.findtext("divisions") or divisions)
        if item.tag not in ("note", "backup", "forward"):
            continue
        length = float(item.findtext("duration") or 0) / divisions  # ornaments have none
        if item.tag == "backup":
            now -= length
            continue
        if item.find("chord") is None:
            last, now = now, now + length
        pitch = item.find("pitch")
        if pitch is not None and length:
            key = STEPS[pitch.findtext("step") or "C"] + int(float(pitch.findtext("alter") or 0))
            key += 12 * (int(pitch.findtext("octave") or 4) + 1)
            notes.append((key, begin + last, begin + last + length))
        longest = max(longest, now)
    return divisions, longest


def _number(name: str) -> list[str | int]:
    """Sort key that puts work 2 before work 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
