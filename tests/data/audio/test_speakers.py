"""Labelled sequences of vectors and sounds: read, split, and drawn again from where they stopped."""

from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from torchstone.data.audio.sequence_batches import SequenceBatches, eval_batches
from torchstone.data.audio.speakers import concat_splits, read_speakers
from torchstone.errors import BadInput

RATE = 8000


def tone(hertz: float, seconds: float = 0.2):
    t = np.arange(round(seconds * RATE)) / RATE
    return 0.5 * np.sin(2 * np.pi * hertz * t) * np.hanning(len(t))


def test_read_speakers_japanese_vowels():
    data = read_speakers("japanese_vowels", RATE)
    print(data.description)
    assert data.classes == tuple("123456789")
    whole = concat_splits(data.train, data.val)
    assert (len(whole), len(data.test)) == (270, 370)
    assert Counter(whole.labels) == dict.fromkeys(range(9), 30)
    assert Counter(data.val.labels) == dict.fromkeys(range(9), 3)
    assert [Counter(data.test.labels)[i] for i in range(9)] == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    lengths = [len(item) for item in concat_splits(whole, data.test).items]
    assert (min(lengths), max(lengths)) == (7, 29)
    assert {item.shape[1] for item in whole.items} == {12}
    first = next(i for i, name in zip(whole.items, whole.names, strict=True) if name.startswith("case 1 of"))
    torch.testing.assert_close(first[:2, :2], torch.tensor([[1.860936, -0.207383], [1.891651, -0.193249]]))
    assert not data.is_sound


def speakers(path, counts, form="wav"):
    for k, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True)
        for i in range(count):
            soundfile.write(path / name / f"{i}.{form}", tone(200 + 100 * k + i), RATE)
    return str(path)


def test_read_speakers_folder(tmp_path):
    spec = speakers(tmp_path, {"ann": 20, "bob": 10, "eve": 10})
    data = read_speakers(spec, RATE)
    print(data.description)
    assert data.classes == ("ann", "bob", "eve")
    assert data.is_sound
    assert [len(part) for part in (data.train, data.val, data.test)] == [32, 4, 4]
    for part in (data.val, data.test):
        assert Counter(part.labels) == {0: 2, 1: 1, 2: 1}
    everything = concat_splits(data.train, data.val, data.test)
    assert len(set(everything.names)) == 40
    assert all(data.classes[k] in name for k, name in zip(everything.labels, everything.names, strict=True))
    assert read_speakers(spec, RATE).test.names == data.test.names
    assert all(float(item.abs().max()) == 1.0 for item in everything.items)


def test_read_speakers_folders_that_are_splits(tmp_path):
    """`train` and `test` are no speakers; files that are no sounds are counted."""
    speakers(tmp_path / "Train", {"ann": 10, "bob": 10})
    speakers(tmp_path / "test", {"ann": 3, "bob": 4})
    (tmp_path / "test" / "ann" / "more.m4a").write_bytes(b"x")
    data = read_speakers(str(tmp_path), RATE)
    print(data.description)
    assert data.classes == ("ann", "bob")
    assert [len(part) for part in (data.train, data.val, data.test)] == [18, 2, 7]
    assert "1 other file skipped" in data.description
    speakers(tmp_path / "more", {"ann": 1})
    with pytest.raises(BadInput, match="Train and test, which may be splits, beside more"):
        read_speakers(str(tmp_path), RATE)


def test_read_speakers_fsdd_official_split(tmp_path):
    for digit in (0, 1):
        for speaker in ("ann", "bob"):
            for index in range(9):
                name = f"{digit}_{speaker}_{index}.wav"
                soundfile.write(tmp_path / name, tone(300 + index), RATE)
    data = read_speakers(str(tmp_path), RATE)
    print(data.description)
    assert data.classes == ("ann", "bob")
    assert [len(part) for part in (data.train, data.val, data.test)] == [4, 12, 20]
    assert "test: indices 0 to 4, as published" in data.description


TS = "@problemName Two\n@timeStamps false\n@classLabel true a b\n@data\n"


def ts(path, train: str, test: str = "5,6:7,8:a\n"):
    (path / "Two_TRAIN.ts").write_text(TS + train)
    (path / "Two_TEST.ts").write_text(TS + test)
    return str(path / "Two_TRAIN.ts")


def test_read_speakers_ts_file(tmp_path):
    data = read_speakers(ts(tmp_path, "1,2,3:4,5,6:a\n1,2:3,4:b\n" * 4), RATE)
    whole = concat_splits(data.train, data.val)
    assert Counter(whole.labels) == {0: 4, 1: 4}
    first = whole.items[whole.labels.index(0)]
    assert first.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert data.test.items[0].tolist() == [[5, 7], [6, 8]]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("1,?:3,4:a\n", "1:2:a", "case 1: a value is missing or no number"),
        ("1,2:3:a\n", "1:2:a", "case 1: its 2 dimensions differ in length or number"),
        ("1,2:3,4:a\n1,2:b\n", "1:2:a", "case 2: its 1 dimensions differ in length or number"),
        ("1:2:a\n" * 3, "1:2:a", "has only the speaker 'a'"),
        ("1:2:a\n1:2:b\n" * 3, "1:2:c", "'c' is in test, but not in train"),
        ("1:2:a\n1:2:b\n1:2:a\n", "1:2:a", "speaker 'b' of Two_TRAIN.ts has 1; at least 2"),
        ("", "1:2:a", "is no .ts file of series"),
    ],
)
def test_read_speakers_rejects_bad_ts_files(train, test, message, tmp_path):
    with pytest.raises(BadInput) as caught:
        read_speakers(ts(tmp_path, train, test), RATE)
    print(caught.value)
    assert message in str(caught.value)


def test_read_speakers_rejects_missing_data(tmp_path):
    with pytest.raises(BadInput, match="did you mean japanese_vowels"):
        read_speakers("japanese_vowel", RATE)
    with pytest.raises(BadInput, match="is no set of speakers: give a folder with a sub-folder"):
        read_speakers(str(tmp_path), RATE)
    (tmp_path / "a_TRAIN.ts").write_text(TS + "1:2:a\n")
    with pytest.raises(BadInput, match=r"there is no .*a_TEST.ts"):
        read_speakers(str(tmp_path / "a_TRAIN.ts"), RATE)
    with pytest.raises(BadInput, match=r"speaker 'bob' of .* has 2; at least 3"):
        read_speakers(speakers(tmp_path, {"ann": 5, "bob": 2}), RATE)
    soundfile.write(tmp_path / "bob" / "2.wav", np.zeros(4000), RATE)
    with pytest.raises(BadInput, match=r"2.wav is silent"):
        read_speakers(str(tmp_path), RATE)


# batches

ROWS = [torch.arange(n * 2.0).view(n, 2) for n in (3, 9, 4, 12, 5, 6, 7, 20)]
LABELS = list(range(8))


def batches(**options):
    return SequenceBatches(ROWS, LABELS, 4, **({"seed": 5, "max_length": 6, "noise_std": 0.0} | options))


def test_sequence_batches_crop_sequences():
    stream, begins = batches(), Counter()
    for _ in range(40):
        batch = next(stream)
        for x, n, label in zip(*batch, strict=True):
            row = ROWS[label]
            assert n == min(6, len(row))
            first = int(x[0, 0]) // 2
            begins[int(label), first] += 1
            assert torch.equal(x[:n], row[first : first + n])
            assert not x[n:].any()
    assert Counter(label for label, _ in begins.elements()) == dict.fromkeys(LABELS, 20)
    of_twenty = {first for label, first in begins if label == 7}
    print(f"passages of the longest begin at {sorted(of_twenty)}")
    assert of_twenty <= set(range(15))
    assert len(of_twenty) > 8


def test_sequence_batches_noise_resume_and_share():
    plain, noisy = next(batches()), next(batches(noise_std=0.5))
    apart = (noisy.x - plain.x)[plain.x.abs().sum(2) > 0]
    assert 0.3 < float(apart.std()) < 0.7
    stream = batches(noise_std=0.5)
    drawn = [next(stream) for _ in range(5)]
    assert stream.state_dict() == {"position": 20}
    later = batches(noise_std=0.5)
    later.load_state_dict({"position": 12})
    assert all(torch.equal(a, b) for a, b in zip(next(later), drawn[3], strict=True))
    for rank in range(2):
        half = next(batches(noise_std=0.5, rank=rank, world_size=2))
        assert torch.equal(half.labels, drawn[0].labels[rank::2])
        width = half.x.shape[1]
        assert torch.equal(half.x, drawn[0].x[rank::2, :width])
    with pytest.raises(BadInput, match="a batch of 4 cannot be shared by 3 processes"):
        batches(world_size=3)


def test_eval_batches_yield_full_sequences():
    seen = {}
    for index, batch in eval_batches(ROWS, LABELS, "cpu", batch_size=3):
        for i, x, n in zip(index, batch.x, batch.lengths, strict=True):
            seen[i] = x[:n]
    assert all(torch.equal(seen[i], row) for i, row in enumerate(ROWS))
