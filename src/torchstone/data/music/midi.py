"""Notes and frames, and the MIDI files that they come from and go into (through mido)."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Bool
from torch import Tensor

from torchstone.errors import BadInput

LOWEST_KEY, KEYS = 21, 88  # the keys of a piano, A0 to C8, by MIDI's numbers
DRUMS = 9  # the channel whose keys are no pitches
TICKS = 480  # a quarter note in files that are written
EXTENSIONS = (".mid", ".midi")

# a note: MIDI key, when it begins and when it ends, in quarter notes
Note = tuple[int, float, float]
Frames = Bool[Tensor, "_frames 88"]  # pieces differ in length


def notes_to_frames(notes: Sequence[Note], frame: float, *, score: bool = False) -> tuple[Frames, int]:
    """Which keys sound in each frame of `frame` quarter notes, and how many notes no piano has.

    A note that was played begins and ends where the nearest frame does, and lasts for one at least. Of a
    `score` it is those notes that sound as the frame begins: no voice has two in one.
    """
    if score:
        spans = [(k, math.ceil(b / frame - 1e-6), math.ceil(e / frame - 1e-6)) for k, b, e in notes]
    else:
        spans = [(k, math.floor(b / frame + 0.5), math.floor(e / frame + 0.5)) for k, b, e in notes]
        spans = [(key, begin, max(end, begin + 1)) for key, begin, end in spans]
    spans = [(key - LOWEST_KEY, begin, end) for key, begin, end in spans]
    inside = [span for span in spans if 0 <= span[0] < KEYS]
    sounds = torch.zeros(max((end for *_, end in inside), default=0), KEYS, dtype=torch.bool)
    for key, begin, end in inside:
        sounds[begin:end, key] = True
    return sounds, len(spans) - len(inside)


def read(file: Path) -> list[Note]:
    """The notes of a MIDI file, all tracks and channels but the drums; empty where it has none.

    Raises:
        BadInput: no MIDI file, or one that counts in seconds; mido is not installed.
    """
    mido = _mido()
    try:
        song = mido.MidiFile(file)
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise BadInput(f"{file} is no MIDI file that can be read ({error})") from None
    if song.ticks_per_beat <= 0 or song.ticks_per_beat >= 0x8000:
        raise BadInput(f"{file} counts in seconds, not in quarter notes: save it in bars and beats")
    notes, quarter = [], song.ticks_per_beat
    for track in song.tracks:
        now, sounding = 0, {}
        for message in track:
            now += message.time
            if message.type not in ("note_on", "note_off") or message.channel == DRUMS:
                continue
            key = (message.channel, message.note)
            if key in sounding:  # struck again, or let go
                notes.append((message.note, sounding.pop(key) / quarter, now / quarter))
            if message.type == "note_on" and message.velocity:
                sounding[key] = now
        # what is never let go ends with the track
        notes += [(note, begin / quarter, now / quarter) for (_, note), begin in sounding.items()]
    return sorted(notes, key=lambda note: note[1:])


def write(file: Path, sounds: Frames, frame: float, tempo: float) -> None:
    """A piano that plays the frames; a key that sounds in several after another is held.

    Args:
        frame: quarter notes that one lasts; `tempo`: quarter notes a minute.

    Raises:
        BadInput: a tempo that is none; it cannot be written; mido is not installed.
    """
    mido = _mido()
    if not 1 <= tempo <= 1000:
        raise BadInput(f"a tempo is 1 to 1000 quarter notes a minute, not {tempo:g}")
    silence = torch.zeros(1, KEYS, dtype=torch.int8)
    edges = torch.cat([silence, sounds.cpu().to(torch.int8), silence]).diff(dim=0)
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))])
    ticks, last = Fraction(frame).limit_denominator(TICKS) * TICKS, 0
    # what ends is let go before the next is struck
    for place, key in sorted(edges.nonzero().tolist(), key=lambda e: (e[0], int(edges[*e]))):
        kind = "note_on" if edges[place, key] > 0 else "note_off"
        now = round(place * ticks)
        track.append(mido.Message(kind, note=key + LOWEST_KEY, velocity=64, time=now - last))
        last = now
    track.append(mido.MetaMessage("end_of_track", time=round(len(sounds) * ticks) - last))
    song = mido.MidiFile(ticks_per_beat=TICKS, tracks=[track])
    beside = file.with_name(f"{file.name}.new")
    try:
        song.save(beside)
        beside.replace(file)
    except OSError as error:
        raise BadInput(f"cannot write {file} ({error.strerror}): choose another --out") from None


def key_names(sounds: Frames) -> str:
    """The keys of each frame as names, lowest first: C3 G3 E4 C5; a dash where nothing sounds."""
    names = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    lines = []
    for row in sounds.cpu():
        keys = [key + LOWEST_KEY for key in row.nonzero().flatten().tolist()]
        lines.append(" ".join(f"{names[key % 12]}{key // 12 - 1}" for key in keys) or "-")
    return "\n".join(lines)


def _mido() -> ModuleType:
    try:
        import mido
    except ImportError:
        raise BadInput("MIDI files need mido: pip install 'torchstone[music]'") from None
    return mido
