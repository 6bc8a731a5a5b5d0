"""Notes, piano-roll frames, and reading and writing MIDI files (through mido)."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Bool
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.files import atomic_write

LOWEST_KEY, KEYS = 21, 88  # the keys of a piano, A0 to C8, as MIDI note numbers
DRUMS = 9  # the percussion channel, whose notes are no pitches
TICKS = 480  # per quarter note in files written here
EXTENSIONS = (".mid", ".midi")

# a note: MIDI note number, onset and offset in quarter notes
Note = tuple[int, float, float]
Frames = Bool[Tensor, "_frames 88"]  # a piano roll; pieces differ in length


def notes_to_frames(
    notes: Sequence[Note], frame_beats: float, *, is_score: bool = False
) -> tuple[Frames, int]:
    """The piano roll of notes, and the number of notes beyond a piano's keys.

    Onsets and offsets of performed notes are rounded to the nearest frame, and a note lasts for one frame at
    least. Of a score, a frame holds the notes that sound as it begins: no voice has two in one.

    Args:
        frame_beats: quarter notes per frame.
    """
    spans = [(key - LOWEST_KEY, begin / frame_beats, end / frame_beats) for key, begin, end in notes]
    if is_score:
        spans = [(k, math.ceil(b - 1e-6), math.ceil(e - 1e-6)) for k, b, e in spans]
    else:
        spans = [(k, math.floor(b + 0.5), math.floor(e + 0.5)) for k, b, e in spans]
        spans = [(key, begin, max(end, begin + 1)) for key, begin, end in spans]
    inside = [span for span in spans if 0 <= span[0] < KEYS]
    sounds = torch.zeros(max((end for *_, end in inside), default=0), KEYS, dtype=torch.bool)
    for key, begin, end in inside:
        sounds[begin:end, key] = True
    return sounds, len(spans) - len(inside)


def read(file: Path) -> list[Note]:
    """The notes of a MIDI file, of all tracks and channels but percussion.

    Raises:
        BadInput: no MIDI file, or one in SMPTE time; mido is not installed.
    """
    mido = _mido()
    try:
        song = mido.MidiFile(file)
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise BadInput(f"{file} is no MIDI file that can be read ({error})") from None
    if song.ticks_per_beat <= 0 or song.ticks_per_beat >= 0x8000:
        raise BadInput(f"{file} is timed in seconds, not in quarter notes: save it in bars and beats")
    notes, quarter = [], song.ticks_per_beat
    for track in song.tracks:
        now, sounding = 0, {}
        for message in track:
            now += message.time
            if message.type not in ("note_on", "note_off") or message.channel == DRUMS:
                continue
            key = (message.channel, message.note)
            if key in sounding:  # repeated or released
                notes.append((message.note, sounding.pop(key) / quarter, now / quarter))
            if message.type == "note_on" and message.velocity:
                sounding[key] = now
        # a note that is never released ends with the track
        notes += [(note, begin / quarter, now / quarter) for (_, note), begin in sounding.items()]
    return sorted(notes, key=lambda note: note[1:])


def write(file: Path, sounds: Frames, frame_beats: float, tempo: float) -> None:
    """Write frames as a MIDI file; a key that sounds in consecutive frames is held.

    Args:
        frame_beats: quarter notes per frame; `tempo`: quarter notes per minute.

    Raises:
        BadInput: a tempo out of range; the file cannot be written; mido is not installed.
    """
    mido = _mido()
    if not 1 <= tempo <= 1000:
        raise BadInput(f"tempo must be 1 to 1000 quarter notes per minute, not {tempo:g}")
    silence = torch.zeros(1, KEYS, dtype=torch.int8)
    edges = torch.cat([silence, sounds.cpu().to(torch.int8), silence]).diff(dim=0)
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo))])
    ticks, last = Fraction(frame_beats).limit_denominator(TICKS) * TICKS, 0
    # notes are released before the next ones begin
    for index, key in sorted(edges.nonzero().tolist(), key=lambda e: (e[0], int(edges[*e]))):
        kind = "note_on" if edges[index, key] > 0 else "note_off"
        now = round(index * ticks)
        track.append(mido.Message(kind, note=key + LOWEST_KEY, velocity=64, time=now - last))
        last = now
    track.append(mido.MetaMessage("end_of_track", time=round(len(sounds) * ticks) - last))
    song = mido.MidiFile(ticks_per_beat=TICKS, tracks=[track])
    try:
        with atomic_write(file) as new:
            song.save(new)
    except OSError as error:
        raise BadInput(f"cannot write {file} ({error.strerror}): choose another --out") from None


def key_names(sounds: Frames) -> str:
    """The note names of each frame, lowest first: C3 G3 E4 C5; a dash for silence."""
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
