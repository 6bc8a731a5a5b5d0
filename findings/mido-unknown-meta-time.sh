#!/usr/bin/env bash
# mido keeps a MIDI meta event of a type that it does not know, but sets its delta time to 0: all later
# notes of the track begin earlier by that time. The MIDI file standard reserves type numbers for the future
# and asks readers to skip those they do not know; the time before them counts all the same. pretty_midi and
# miditoolkit read through mido and inherit it; symusic has a reader of its own and does not.
#
# It matters for music models: tracks of one piece drift against each other, since such an event usually
# stands in one of them only, and piano rolls of the same file differ between libraries.
#
# The product reads MIDI files itself, and counts every delta: tests/data/music/test_dataset.py,
# test_midi_read_times_chunks_and_running_status.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet mido==1.3.3 pretty_midi==0.2.11.post0 miditoolkit==1.0.1 \
  symusic==0.6.0 setuptools==80.9.0
venv/bin/python -I -W ignore - <<'PY'
import struct
import sys
from importlib.metadata import version

import mido
import miditoolkit
import pretty_midi
import symusic

print(", ".join(f"{name} {version(name)}" for name in ("mido", "pretty_midi", "miditoolkit", "symusic")))

QUARTER = b"\x83\x60"  # 480 ticks, as a number of variable length


def file_with(meta_type):
    """A note on beat 0, a meta event on beat 2, a note on beat 3."""
    first = b"\x00\x90\x3c\x40" + QUARTER + b"\x80\x3c\x00"
    second = b"\x90\x3e\x40" + QUARTER + b"\x80\x3e\x00"
    meta, end = bytes([0xFF, meta_type, 3]) + b"abc", b"\x00\xff\x2f\x00"
    events = first + QUARTER + meta + QUARTER + second + end
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480)
    return head + b"MTrk" + struct.pack(">I", len(events)) + events


def second_note():
    """Beats before the second note, by each library, at its 120 beats per minute."""
    ticks, found = 0, []
    for message in mido.MidiFile("a.mid").tracks[0]:
        ticks += message.time
        found += [ticks / 480] if message.type == "note_on" and message.velocity else []
    return {
        "mido": found[1],
        "pretty_midi": float(pretty_midi.PrettyMIDI("a.mid").instruments[0].notes[1].start) * 2,
        "miditoolkit": miditoolkit.MidiFile("a.mid").instruments[0].notes[1].start / 480,
        "symusic": symusic.Score("a.mid").tracks[0].notes[1].time / 480,
    }


print("expected: the second note begins on beat 3 in all of them, whatever the event before it says")
late = {"mido": 3.0, "pretty_midi": 3.0, "miditoolkit": 3.0, "symusic": 3.0}
early = {"mido": 2.0, "pretty_midi": 2.0, "miditoolkit": 2.0, "symusic": 3.0}
kinds = (0x01, "text", late), (0x0A, "reserved for text", early), (0x60, "unknown", early)
for meta_type, what, wanted in kinds:
    open("a.mid", "wb").write(file_with(meta_type))
    came = second_note()
    print(f"meta event 0x{meta_type:02x} ({what}): {came}")
    if came != wanted:
        sys.exit(f"CHANGED: with 0x{meta_type:02x} it was {wanted}")
print("confirmed: the time before a meta event of unknown type is lost")
PY
