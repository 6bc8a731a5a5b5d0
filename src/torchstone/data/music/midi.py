"""Notes, piano-roll frames, and reading and writing MIDI files (these through mido)."""

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
MAX_LENGTH = 100_000  # quarter notes of a piece: half a day
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

    Everything else in it (key signatures, tempi, controllers, chunks of other programs) is passed over
    unread, so that nothing is wrong with it.

    Raises:
        BadInput: no MIDI file, one that is cut off, or one in SMPTE time.
    """
    try:
        tracks, division = _parse(file.read_bytes())
    except OSError as error:
        raise BadInput(f"{file} is no MIDI file that can be read ({error.strerror})") from None
    except (ValueError, IndexError) as error:
        reason = "it is cut off" if isinstance(error, IndexError) else error
        raise BadInput(f"{file} is no MIDI file that can be read ({reason})") from None
    if not 0 < division < 0x8000:
        raise BadInput(f"{file} is timed in seconds, not in quarter notes: save it in bars and beats")
    notes: list[Note] = []
    for events, end in tracks:
        sounding: dict[tuple[int, int], int] = {}
        for now, channel, note, is_onset in events:
            if channel == DRUMS:
                continue
            if (channel, note) in sounding:  # repeated or released
                notes.append((note, sounding.pop((channel, note)) / division, now / division))
            if is_onset:
                sounding[channel, note] = now
        # a note that is never released ends with the track
        notes += [(note, begin / division, end / division) for (_, note), begin in sounding.items()]
    if last := max((end for *_, end in notes if end > MAX_LENGTH), default=0):
        raise BadInput(
            f"{file} lasts {last:,.0f} quarter notes, more than {MAX_LENGTH:,}: its times are damaged"
        )
    return sorted(notes, key=lambda note: note[1:])


# of a track: (time in ticks, channel, note, whether it begins), and the time at which it ends
Track = tuple[list[tuple[int, int, int, bool]], int]


def _parse(data: bytes) -> tuple[list[Track], int]:
    """Tracks and the ticks of a quarter note. Raises `ValueError` with the reason, or `IndexError` at the
    end of the data."""
    start = data.find(b"MThd", 0, 64) if data[:4] == b"RIFF" else 0
    if start < 0 or data[start : start + 4] != b"MThd":
        raise ValueError("it does not begin with MThd")
    kind, count, division = (int.from_bytes(_take(data, start + at, 2), "big") for at in (8, 10, 12))
    if kind == 2 and count > 1:
        raise ValueError(f"it holds {count} independent sequences, of type 2: save each in a file of its own")
    position = start + 8 + int.from_bytes(_take(data, start + 4, 4), "big")
    tracks: list[Track] = []
    while len(tracks) < count:
        kind, size = _take(data, position, 4), int.from_bytes(_take(data, position + 4, 4), "big")
        if kind == b"MTrk":
            tracks.append(_parse_track(_take(data, position + 8, size)))
        position += 8 + size
    return tracks, division


def _take(data: bytes, start: int, count: int) -> bytes:
    if start + count > len(data):
        raise IndexError
    return data[start : start + count]


def _parse_track(data: bytes) -> Track:
    events: list[tuple[int, int, int, bool]] = []
    position, now, running = 0, 0, 0
    while position < len(data):
        delta, position = _variable_length(data, position)
        now += delta
        status = data[position]
        if status >= 0x80:
            position += 1
        elif running:
            status = running
        else:
            raise ValueError("a message lacks its status")
        if status in (0xF0, 0xF7, 0xFF):  # system exclusive and meta messages state their length
            is_end = status == 0xFF and data[position] == 0x2F
            size, position = _variable_length(data, position + (status == 0xFF))
            _take(data, position, size)
            position += size
            if is_end:
                break
            continue
        running = status if status < 0xF0 else running
        size = (
            1
            if status >> 4 in (0xC, 0xD) or status in (0xF1, 0xF3)
            else 2 * (status <= 0xEF or status == 0xF2)
        )
        values = _take(data, position, size)
        position += size
        if status >> 4 in (8, 9):
            if max(values) > 127:
                raise ValueError(f"a note has the data byte {max(values)}, above 127")
            events.append((now, status & 15, values[0], status >> 4 == 9 and values[1] > 0))
    return events, now


def _variable_length(data: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the position after it."""
    value = 0
    while True:
        byte = data[position]
        value, position = value << 7 | byte & 127, position + 1
        if byte < 128:
            return value, position


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
