#!/usr/bin/env bash
# music21 moves the notes of a MIDI file to a grid of sixteenths and eighth triplets while it parses, unless
# told otherwise. Faster notes do not just shift: two of them land on one point of the grid and become a
# chord, so a run of thirty-second notes, or a quintuplet, comes back as a row of clusters that nobody
# played.
#
# It matters because music21 is a usual way from a MIDI collection to tokens or piano rolls: ornaments, runs
# and every performance with free timing become harmonies that are then learned. `quantizePost=False` keeps
# the notes one by one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet music21==10.5.1 mido==1.3.3
HOME="$work" venv/bin/python -I -W ignore - <<'PY'
import sys
from importlib.metadata import version

import mido
import music21

print(f"music21 {version('music21')}, mido {version('mido')}")


def parsed(count, ticks, **options):
    """A scale of `count` notes of `ticks` each (480 are a quarter), as music21 reads it."""
    track = mido.MidiTrack()
    for step in range(count):
        track.append(mido.Message("note_on", note=60 + step, velocity=64, time=0))
        track.append(mido.Message("note_off", note=60 + step, velocity=0, time=ticks))
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save("scale.mid")
    score = music21.converter.parse("scale.mid", forceSource=True, **options)
    return [[pitch.midi for pitch in element.pitches] for element in score.flatten().notes]


print("expected: a scale is a row of single notes, at the worst with rounded times")
single = [[60 + step] for step in range(8)]
for name, count, ticks, options, wanted in (
    ("sixteenths", 8, 120, {}, single),
    ("thirty-seconds", 8, 60, {}, [[60, 61], [62, 63], [64, 65], [66, 67]]),
    ("thirty-seconds, quantizePost=False", 8, 60, {"quantizePost": False}, single),
    ("quintuplet", 5, 96, {}, [[60, 61], [62, 63], [64]]),
    ("quintuplet, quantizePost=False", 5, 96, {"quantizePost": False}, single[:5]),
):
    came = parsed(count, ticks, **options)
    print(f"{name}: {came}")
    if came != wanted:
        sys.exit(f"CHANGED: {name} was {wanted}")
print("confirmed: neighboring fast notes become chords")
PY
