"""Music: frames of keys from notes, files of several kinds, splits, batches, and MIDI there and back."""

import json
import struct
import sys

import numpy as np
import pytest
import torch

from torchstone.data import download
from torchstone.data.music import chorales, midi
from torchstone.data.music.batches import PieceBatches, pad_pieces, transpose_piece
from torchstone.data.music.dataset import load_music, read_piece
from torchstone.errors import BadInput

NOTES = [(60, 0.0, 1.0), (64, 0.0, 2.0), (60, 1.0, 1.5), (67, 2.0, 2.25), (21, 3.0, 4.0), (108, 3.5, 4.0)]


def random_piece(length, seed=0, share=0.05):
    return torch.rand(length, 88, generator=torch.Generator().manual_seed(seed)) < share


def test_notes_to_frames_marks_sounding_keys():
    sounds, dropped = midi.notes_to_frames([*NOTES, (20, 0.0, 9.0)], 0.5)
    assert dropped == 1  # below a piano's lowest
    assert sounds.shape == (8, 88)
    keys = [{key + 21 for key in row.nonzero().flatten().tolist()} for row in sounds]
    assert keys == [{60, 64}, {60, 64}, {60, 64}, {64}, {67}, set(), {21}, {21, 108}]
    assert midi.notes_to_frames([], 0.5)[0].shape == (0, 88)


def test_notes_to_frames_of_score():
    """Two sixteenths in an eighth: the first is heard. Played notes are put on the nearest frame."""
    notes = [(60, 0.0, 0.25), (62, 0.25, 0.5), (64, 0.5, 0.875), (65, 0.875, 1.0)]

    def heard(**options):
        rows = midi.notes_to_frames(notes, 0.5, **options)[0]
        return [[key + 21 for key in row.nonzero().flatten().tolist()] for row in rows]

    assert heard(is_score=True) == [[60], [64]]
    assert heard() == [[60], [62, 64], [65]]
    late = [(key, begin + 0.05, end - 0.03) for key, begin, end in NOTES]
    assert torch.equal(midi.notes_to_frames(late, 0.5)[0], midi.notes_to_frames(NOTES, 0.5)[0])


def test_key_names():
    sounds, _ = midi.notes_to_frames([(60, 0, 1), (69, 0, 1), (22, 0, 1)], 1)
    sounds = torch.cat([sounds, torch.zeros(1, 88, dtype=torch.bool)])
    assert midi.key_names(sounds) == "A#0 C4 A4\n-"


@pytest.mark.parametrize("frame", [1.0, 0.5, 0.25])
def test_midi_round_trip(tmp_path, frame):
    """Every frame again, at the tempo asked for; read by mido itself as well."""
    import mido

    piece = random_piece(50)
    piece[-1, 40] = True  # the last frame sounds, so that the length is seen
    file = tmp_path / "piece.mid"
    midi.write(file, piece, frame, 72.0)
    assert torch.equal(read_piece(file, frame)[0], piece)
    song = mido.MidiFile(file)
    tempos = [m.tempo for track in song.tracks for m in track if m.type == "set_tempo"]
    assert tempos == [mido.bpm2tempo(72)]
    assert abs(song.length - 50 * frame * 60 / 72) < 0.01
    struck = sum(m.type == "note_on" and m.velocity > 0 for track in song.tracks for m in track)
    let_go = sum(m.type == "note_off" for track in song.tracks for m in track)
    begun = int((piece & ~torch.cat([torch.zeros(1, 88, dtype=torch.bool), piece[:-1]])).sum())
    print(f"{struck} notes in {song.length:.1f} s")
    assert struck == let_go == begun
    assert [f.name for f in tmp_path.iterdir()] == ["piece.mid"]


def test_midi_read_tracks_channels_and_drums(tmp_path):
    import mido

    def track(*messages):
        return mido.MidiTrack(mido.Message(kind, **rest) for kind, rest in messages)

    song = mido.MidiFile(ticks_per_beat=96)
    song.tracks.append(
        track(
            ("note_on", {"note": 60, "velocity": 80, "time": 0}),
            ("note_on", {"note": 60, "velocity": 0, "time": 96}),  # ends a note as well
            ("note_on", {"note": 61, "velocity": 80, "channel": 9, "time": 0}),
            ("note_off", {"note": 61, "channel": 9, "time": 96}),
        )
    )
    song.tracks.append(
        track(
            ("note_on", {"note": 72, "velocity": 80, "channel": 1, "time": 48}),
            ("note_on", {"note": 72, "velocity": 80, "channel": 1, "time": 48}),  # struck again
            ("note_off", {"note": 72, "channel": 1, "time": 48}),
            ("note_on", {"note": 74, "velocity": 80, "time": 48}),  # never let go
            ("note_off", {"note": 75, "time": 96}),  # never struck
        )
    )
    file = tmp_path / "a.mid"
    song.save(file)
    wanted = [(60, 0.0, 1.0), (72, 0.5, 1.0), (72, 1.0, 1.5), (74, 2.0, 3.0)]
    assert sorted(midi.read(file)) == wanted


def test_chorales_match_music21():
    from music21 import corpus, note

    with download.fetch_archive(*chorales.SCORES) as opened:
        for work in ("bwv66.6", "bwv1.6", "bwv269", "bwv19.7"):
            score = opened.read(f"music21/corpus/bach/{work}.mxl")
            ours = sorted(chorales.chorale(score))
            theirs = []
            for part in corpus.parse(f"bach/{work}").parts:
                if str(part.partName).lower().split()[0] in chorales.VOICES:
                    theirs += [
                        (n.pitch.midi, float(n.offset), float(n.offset + n.quarterLength))
                        for n in part.flatten().notes
                        if isinstance(n, note.Note) and n.quarterLength
                    ]
            print(work, len(ours), len(theirs))
            assert ours == sorted(theirs)
            assert len(ours) > 100


@pytest.mark.sweep
def test_load_music_chorales(monkeypatch):
    notes = chorales.read()
    monkeypatch.setattr(chorales, "read", lambda: notes)  # 400 scores, read once
    music = load_music("chorales")
    print(music.description)
    parts = (music.train, music.val, music.test)
    assert [len(part) for part in parts] == [303, 40, 60]
    assert music.frame_beats == 0.5
    every = [piece.numpy().tobytes() for part in parts for piece in part]
    assert len(set(every)) == len(every) == 403
    voices = torch.cat([torch.cat(part) for part in parts]).sum(1)
    print(voices.float().mean())
    assert voices.max() == 4
    assert voices.float().mean() > 3.5
    again = load_music("chorales")
    assert all(map(torch.equal, music.test, again.test))
    assert load_music("chorales", 1.0).test[0].shape[0] * 2 == pytest.approx(len(music.test[0]), abs=2)


def published(folder, name="jsb-chorales-quarter.json"):
    def pieces(*lengths):
        return [
            [[key + 21 for key in row.nonzero().flatten().tolist()] for row in random_piece(n, n)]
            for n in lengths
        ]

    content = {"train": pieces(9, 5, 7), "valid": pieces(4), "test": pieces(6, 3)}
    (folder / name).write_text(json.dumps(content))
    return content


def test_load_music_published_split(tmp_path):
    published(tmp_path)
    published(tmp_path, "jsb-chorales-8th.json")
    music = load_music(tmp_path)
    assert [[len(p) for p in part] for part in (music.train, music.val, music.test)] == [
        [9, 5, 7], [4], [6, 3],
    ]  # fmt: skip
    assert torch.equal(music.train[0], random_piece(9, 9))
    assert (music.frame_beats, load_music(tmp_path, 0.5).frame_beats) == (1.0, 0.5)
    assert load_music(tmp_path / "jsb-chorales-8th.json").frame_beats == 0.5
    with pytest.raises(BadInput, match="leave out frame_beats"):
        load_music(tmp_path / "jsb-chorales-8th.json", 1.0)


def test_load_music_midi_folder(tmp_path):
    (tmp_path / "deeper").mkdir()
    for number in range(10):
        folder = tmp_path / "deeper" if number % 2 else tmp_path
        midi.write(folder / f"{number}.mid", random_piece(20 + number, number), 0.25, 100)
    music = load_music(tmp_path)
    print(music.description)
    parts = [music.train, music.val, music.test]
    assert [len(part) for part in parts] == [7, 1, 2]
    assert sum(len(piece) for part in parts for piece in part) == pytest.approx(245, abs=20)
    assert music.frame_beats == 0.25
    (tmp_path / "alone").mkdir()
    midi.write(tmp_path / "alone" / "a.mid", random_piece(9), 0.25, 100)
    with pytest.raises(BadInput, match="holds 1 piece:"):
        load_music(tmp_path / "alone")


def test_load_music_folders_that_are_splits(tmp_path):
    """Published splits are kept; files that macOS writes beside each are passed over."""
    for split, count in {"train": 6, "Test": 3}.items():
        (tmp_path / split).mkdir()
        for i in range(count):
            midi.write(tmp_path / split / f"{i}.mid", random_piece(20 + i, i), 0.25, 100)
            (tmp_path / split / f"._{i}.mid").write_bytes(b"Mac OS X")
    music = load_music(tmp_path)
    print(music.description)
    assert [len(part) for part in (music.train, music.val, music.test)] == [5, 1, 3]
    assert "9 MIDI files; 5 train / 1 val / 3 test pieces (test as published)" in music.description
    tested = [read_piece(tmp_path / "Test" / f"{i}.mid", 0.25)[0] for i in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(music.test, tested, strict=True))
    (tmp_path / "train" / "9.mid").write_bytes(b"none")
    assert "1 left out" in load_music(f"skip-bad:{tmp_path}").description


def test_load_music_rejects_bad_input(tmp_path):
    def rejects(match, call):
        with pytest.raises(BadInput, match=match) as caught:
            call()
        print(caught.value)
        assert "\n" not in str(caught.value)

    rejects("did you mean chorales", lambda: load_music("chorale"))
    rejects("does not exist", lambda: load_music(tmp_path / "none.mid"))
    rejects("holds 0 pieces", lambda: load_music(tmp_path))
    rejects("1/64 to 16", lambda: load_music("chorales", 0.0))
    bad = tmp_path / "bad.mid"
    bad.write_bytes(b"MThd" + b"\0" * 8)
    rejects("is no MIDI file", lambda: load_music(tmp_path))
    rejects("is no MIDI file", lambda: read_piece(bad, 1))
    rejects("does not exist", lambda: read_piece(tmp_path / "none.mid", 1))
    midi.write(bad, torch.zeros(8, 88, dtype=torch.bool), 1, 90)
    rejects("has no notes", lambda: read_piece(bad, 1))
    rejects("tempo must be 1 to 1000", lambda: midi.write(bad, random_piece(4), 1, 0))
    rejects("cannot write", lambda: midi.write(tmp_path / "no" / "a.mid", random_piece(4), 1, 90))
    for content in ("[]", "{", '{"train": [[[60]]]}', '{"train": [[[200]]], "valid": [], "test": []}'):
        file = tmp_path / "jsb-chorales-quarter.json"
        file.write_text(content)
        rejects("does not hold pieces", lambda: load_music(tmp_path))


def test_midi_write_names_missing_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mido", None)
    with pytest.raises(BadInput, match=r"pip install 'torchstone\[music\]'"):
        midi.write(tmp_path / "a.mid", random_piece(4), 1, 90)


def test_piece_batches_epoch_and_resume():
    pieces = [random_piece(n, n, 0.2) for n in range(5, 25)]
    stream = PieceBatches(pieces, 4, seed=1, transpose=3)
    lengths = torch.cat([next(stream)[1] for _ in range(5)])
    assert sorted(lengths.tolist()) == list(range(5, 25))
    state, wanted = stream.state_dict(), [next(stream) for _ in range(7)]
    again = PieceBatches(pieces, 4, seed=1, transpose=3)
    again.load_state_dict(state)
    for frames, count in wanted:
        ours = next(again)
        assert torch.equal(ours[0], frames)
        assert torch.equal(ours[1], count)
        for row, length in zip(frames, count.tolist(), strict=True):
            assert row[length:].sum() == 0
            assert row[:length].sum() == pieces[length - 5].sum()
    halves = [PieceBatches(pieces, 4, seed=1, transpose=3, rank=r, world_size=2) for r in (0, 1)]
    whole, (a, b) = next(PieceBatches(pieces, 4, seed=1, transpose=3)), (next(h) for h in halves)
    assert torch.equal(torch.cat([a[1], b[1]]), whole[1])
    assert torch.equal(a[0], whole[0][:2, : a[0].shape[1]])
    with pytest.raises(BadInput, match="cannot be shared"):
        PieceBatches(pieces, 4, seed=1, rank=0, world_size=3)


def test_transpose_piece_keeps_notes_and_reaches_range():
    piece = torch.zeros(3, 88, dtype=torch.bool)
    piece[0, 2] = piece[2, 80] = True
    seen = {}
    for step in range(1000):
        shifted = transpose_piece(piece, 12, step / 1000)
        assert shifted.sum() == 2
        by = int(shifted[0].nonzero()[0]) - 2
        assert torch.equal(shifted, piece.roll(by, 1))
        seen[by] = seen.get(by, 0) + 1
    assert sorted(seen) == list(range(-2, 8))  # neither below A0 nor above C8
    assert max(seen.values()) - min(seen.values()) <= 1
    assert torch.equal(transpose_piece(torch.zeros_like(piece), 5, 0.9), torch.zeros_like(piece))


def test_pad_pieces_with_silence():
    frames, lengths = pad_pieces([random_piece(n, n) for n in (3, 6)])
    assert frames.shape == (2, 6, 88)
    assert lengths.tolist() == [3, 6]
    assert frames[0, 3:].sum() == 0
    for row, length in zip(frames, lengths.tolist(), strict=True):
        assert torch.equal(row[:length].bool(), random_piece(length, length))


def midi_file(*tracks, division=96, chunks=b""):
    """A MIDI file of these track bytes; `chunks` stand before them."""
    head = b"MThd" + struct.pack(">IHHH", 6, 1, len(tracks), division)
    return head + chunks + b"".join(b"MTrk" + struct.pack(">I", len(t)) + t for t in tracks)


NOTE = bytes([0, 0x90, 60, 64, 96, 0x80, 60, 0])  # a quarter note of C4 at once
END = bytes([0, 0xFF, 0x2F, 0])
ODD = {
    "key of 9 sharps": bytes([0, 0xFF, 0x59, 2, 9, 0]),
    "key of mode 5": bytes([0, 0xFF, 0x59, 2, 0, 5]),
    "key without bytes": bytes([0, 0xFF, 0x59, 0]),
    "tempo of two bytes": bytes([0, 0xFF, 0x51, 2, 7, 7]),
    "text that is no text": bytes([0, 0xFF, 0x01, 3, 0xFF, 0xFE, 0x80]),
    "sysex": bytes([0, 0xF0, 3, 1, 2, 0xF7]),
    "controller above 127": bytes([0, 0xB0, 7, 200]),
}


@pytest.mark.parametrize("odd", ODD)
def test_midi_read_passes_over_what_is_no_note(odd, tmp_path):
    (tmp_path / "a.mid").write_bytes(midi_file(ODD[odd] + NOTE + END))
    notes = midi.read(tmp_path / "a.mid")
    print(odd, notes)
    assert notes == [(60, 0.0, 1.0)]


def test_midi_read_times_chunks_and_running_status(tmp_path):
    """Every delta counts, an unknown meta message's too; running status; foreign chunks; RIFF around it."""
    unknown = bytes([48, 0xFF, 0x60, 1, 9])
    running = bytes([0, 0x90, 60, 64, 96, 60, 0, 0, 62, 64, 0x81, 0x40, 62, 0])
    foreign = b"XFIH" + struct.pack(">I", 3) + b"abc"
    data = midi_file(unknown + running + END, chunks=foreign)
    for content in (
        data,
        b"RIFF" + struct.pack("<I", len(data) + 12) + b"RMIDdata" + struct.pack("<I", len(data)) + data,
    ):
        (tmp_path / "a.mid").write_bytes(content)
        notes = midi.read(tmp_path / "a.mid")
        print(notes)
        assert notes == [(60, 0.5, 1.5), (62, 1.5, 3.5)]


BROKEN = {
    "text": (b"no music at all", "does not begin with MThd"),
    "empty": (b"", "does not begin with MThd"),
    "cut in the head": (midi_file(NOTE)[:11], "cut off"),
    "cut in a track": (midi_file(NOTE + END)[:-5], "cut off"),
    "message longer than the track": (midi_file(bytes([0, 0xFF, 1, 99])), "cut off"),
    "lacks a track": (midi_file(NOTE, NOTE)[: -len(NOTE) - 8], "cut off"),
    "no status": (midi_file(bytes([0, 60, 64])), "lacks its status"),
    "data byte": (midi_file(bytes([0, 0x90, 60, 200])), "data byte 200"),
    "two million quarter notes": (
        midi_file(bytes([0, 0x90, 60, 64, 0xE0, 0x80, 0x80, 0, 0x80, 60, 0])),
        "lasts 2,",
    ),
    "type 2": (
        b"MThd" + struct.pack(">IHHH", 6, 2, 2, 480) + midi_file(NOTE + END, NOTE + END)[14:],
        "2 independent sequences",
    ),
    "SMPTE": (midi_file(NOTE, division=0xE728), "timed in seconds"),
    "no division": (midi_file(NOTE, division=0), "timed in seconds"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_midi_read_messages(fault, tmp_path):
    content, said = BROKEN[fault]
    (tmp_path / "a.mid").write_bytes(content)
    with pytest.raises(BadInput, match=said) as caught:
        midi.read(tmp_path / "a.mid")
    print(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.sweep
def test_midi_read_of_damaged_files_ends(tmp_path):
    numbers, outcomes = np.random.RandomState(0), []
    whole = midi_file(NOTE * 5 + ODD["sysex"] + NOTE + END, NOTE + END)
    for _ in range(400):
        data = bytearray(whole)
        for at in numbers.randint(0, len(data), numbers.randint(1, 5)):
            data[at] = numbers.randint(256)
        (tmp_path / "a.mid").write_bytes(bytes(data[: numbers.randint(1, len(data) + 1)]))
        try:
            said, count = "", len(midi.read(tmp_path / "a.mid"))
        except BadInput as error:
            said, count = str(error), -1
        assert "\n" not in said
        outcomes.append(count)
    print(sum(each < 0 for each in outcomes), "of 400 refused")
