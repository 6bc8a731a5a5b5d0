"""Speech: folders with transcripts and composed utterances, what is wrong with them, and exact batches."""

import numpy as np
import pytest
import soundfile
import torch

from torchstone.data.audio.files import Recording
from torchstone.data.audio.speech import read_speech
from torchstone.data.audio.speech_batches import (
    Augmentation,
    SpeechBatches,
    UtteranceComposer,
    collate,
    eval_batches,
    noise_clips,
)
from torchstone.errors import BadInput

RATE = 8000


def tone(hertz: float, seconds: float = 0.3):
    t = np.arange(round(seconds * RATE)) / RATE
    return 0.5 * np.sin(2 * np.pi * hertz * t) * np.hanning(len(t))


def folder(path, texts, table: str = "transcripts.tsv", header: str = "file\ttext"):
    for i in range(len(texts)):
        soundfile.write(path / f"{i}.wav", tone(200 + 10 * i, 0.2 + 0.01 * i), RATE)
    lines = [f"{i}.wav\t{text}" for i, text in enumerate(texts)]
    text = "\n".join([header, *lines] if header else lines) + "\n"
    (path / table).write_text(text.replace("\t", "," if table.endswith("csv") else "\t"), "utf-8")
    return str(path)


TEXTS = [f"wort {i}" for i in range(18)] + ["grüße ", "a  b"]


@pytest.mark.parametrize("table", ["transcripts.tsv", "any.csv"])
@pytest.mark.parametrize("header", ["file\ttext", "Path\tSentence", ""])
def test_read_speech_folder(table, header, tmp_path):
    data = read_speech(folder(tmp_path, TEXTS, table, header), RATE)
    print(data.description)
    everything = [*data.train, *data.val, *data.test]
    assert sorted(r.text for r in everything) == sorted(" ".join(text.split()) for text in TEXTS)
    assert [len(part) for part in (data.train, data.val, data.test)] == [16, 2, 2]
    assert data.alphabet == "".join(sorted(set("".join(r.text for r in everything))))
    assert not data.is_isolated
    assert data.name == str(tmp_path)
    again = read_speech(str(tmp_path), RATE)
    assert [r.name for r in again.test] == [r.name for r in data.test]
    for r in everything:
        number = int(r.name.rpartition("/")[2][:-4])
        assert len(r.wave) == round((0.2 + 0.01 * number) * RATE)


def test_read_speech_table_with_splits(tmp_path):
    folder(tmp_path, TEXTS)
    rows = [f"{i}.wav,{'dev' if i == 3 else 'test' if i < 3 else 'train'},wort" for i in range(10)]
    (tmp_path / "transcripts.tsv").unlink()
    (tmp_path / "list.csv").write_text("file,split,text\n" + "\n".join(rows))
    data = read_speech(str(tmp_path), RATE)
    print(data.description)
    assert [len(part) for part in (data.train, data.val, data.test)] == [6, 1, 3]
    assert [r.name[-5:] for r in data.test] == ["0.wav", "1.wav", "2.wav"]
    assert "10 sound files without a transcript not used" in data.description
    assert "split as in the table" in data.description


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file\ttext\n9.wav\thallo", "data row 1: there is no file"),
        ("file\ttext\n0.wav\t", "data row 1: the text is empty"),
        ("file\ttext\n0.wav\ta\tb", "data row 1: 3 cells, not 2"),
        ("file\tlabel\n0.wav\ta", "no column named text, only file, label"),
        ("file\ttext\n0.wav\ta\n0.wav\tb", "lists 0.wav twice"),
        ("file\ttext\n0.wav\ta\n./0.wav\tb", "lists 0.wav twice"),
        ("file\ttext\n0.wav\tnan", "data row 1: the text is 'nan', which stands for none"),
        ("file\ttext", "is empty"),
        ("", "is empty"),
        ("file\ttext\n0.wav\ta", "1 utterances to train on, too few to split"),
        ("file\ttext\tsplit\n0.wav\ta\tdev\n1.wav\tb\t", "names a split in 1 of 2 rows"),
        ("file\ttext\tsplit\n0.wav\ta\tlater", "split is train, val or test, not 'later'"),
        ("file\ttext\tsplit\n0.wav\ta\ttest", "no rows to train on"),
    ],
)
def test_read_speech_rejects_bad_tables(table, message, tmp_path):
    folder(tmp_path, ["a", "b"])
    (tmp_path / "transcripts.tsv").write_text(table)
    with pytest.raises(BadInput) as caught:
        read_speech(str(tmp_path), RATE)
    print(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_speech_rejects_bad_folders(tmp_path):
    folder(tmp_path, ["a", "b", "c"])
    (tmp_path / "transcripts.tsv").write_bytes("file\ttext\n0.wav\tgrüße".encode("latin-1"))
    with pytest.raises(BadInput, match="is not UTF-8"):
        read_speech(str(tmp_path), RATE)
    (tmp_path / "more.csv").touch()
    with pytest.raises(BadInput, match=r"needs one transcript file.* found: more.csv, transcripts.tsv"):
        read_speech(str(tmp_path), RATE)
    with pytest.raises(BadInput, match=r"no speech at 'capcha' .did you mean captcha"):
        read_speech("capcha", RATE)
    with pytest.raises(BadInput, match=r"0.wav is no data set of speech"):
        read_speech(str(tmp_path / "0.wav"), RATE)
    soundfile.write(tmp_path / "0.wav", np.zeros(4000), RATE)
    (tmp_path / "more.csv").unlink()
    (tmp_path / "transcripts.tsv").write_text("0.wav\ta\n1.wav\tb\n")
    with pytest.raises(BadInput, match=r"0.wav is silent"):
        read_speech(str(tmp_path), RATE)


def test_read_speech_captcha_is_isolated():
    data = read_speech("captcha", RATE)
    assert data.is_isolated
    assert len(data.train) == len(data.alphabet) == 36
    assert "composed" in data.description
    assert "same recordings in training and test" in data.description


# what is composed

ONES = [
    Recording(torch.full((length,), 1.0), text, speaker, text)
    for text, speaker, length in [("a", "x", 400), ("b", "x", 560), ("c", "y", 480), ("d", "y", 720)]
]
PLAIN = Augmentation(
    recordings_per_utterance=(2, 4),
    gap_seconds=(0.1, 0.1),
    edge_seconds=(0.05, 0.05),
    speed_change=0.0,
    attenuation_db=0.0,
    snr_db=(200, 200),
)


def test_composer_uses_one_speaker_with_gaps():
    make = UtteranceComposer(ONES, RATE, PLAIN, seed=0)
    seen = set()
    for number in range(40):
        one = make(number)
        seen |= {one.text, one.speaker}
        own = {r.text: len(r.wave) for r in ONES if r.speaker == one.speaker}
        assert set(one.text) <= own.keys()
        assert 2 <= len(one.text) <= 4
        silences = 2 * 400 + (len(one.text) - 1) * 800
        assert len(one.wave) == silences + sum(own[c] for c in one.text)
        # loud exactly where something is message
        loud = (one.wave > 0.5).int().tolist()
        wanted = [0] * 400
        for place, c in enumerate(one.text):
            wanted += ([0] * 800 if place else []) + [1] * own[c]
        assert loud == wanted + [0] * 400
    print(sorted(seen))
    assert {"x", "y"} <= seen
    assert {len(text) for text in seen - {"x", "y"}} == {2, 3, 4}


def test_composer_augmentation_stays_in_range():
    augmentation = Augmentation(
        recordings_per_utterance=(1, 1),
        gap_seconds=(0, 0),
        edge_seconds=(0, 0),
        speed_change=0.2,
        attenuation_db=0.0,
        snr_db=(200, 200),
    )
    make = UtteranceComposer(ONES[:1], RATE, augmentation, seed=1)
    lengths = [len(make(i).wave) for i in range(200)]
    print(f"{min(lengths)} to {max(lengths)} samples of 400")
    assert 400 / 1.2 - 1 <= min(lengths) < 345
    assert 480 < max(lengths) <= 501
    augmentation = Augmentation(
        recordings_per_utterance=(2, 2),
        gap_seconds=(0, 0),
        edge_seconds=(0, 0),
        speed_change=0,
        attenuation_db=12.0,
        snr_db=(200, 200),
    )
    make = UtteranceComposer(ONES[:1], RATE, augmentation, seed=1)
    steps = [float(make(i).wave[400:].mean() / make(i).wave[:400].mean()) for i in range(200)]
    assert 10 ** (-12 / 20) - 0.01 <= min(steps) < 0.35
    assert 2.8 < max(steps) <= 10 ** (12 / 20) + 0.1
    quiet = torch.zeros(8000)
    quiet[:4000] = torch.sin(torch.arange(4000) * 0.3)
    augmentation = Augmentation(
        recordings_per_utterance=(1, 1),
        gap_seconds=(0, 0),
        edge_seconds=(1, 1),
        speed_change=0,
        attenuation_db=0,
        snr_db=(20, 20),
    )
    wave = UtteranceComposer([ONES[0]._replace(wave=quiet[:4000])], RATE, augmentation, seed=2)(0).wave
    message, noise = wave[8000:12000].square().mean(), wave[:8000].square().mean()
    assert 10 * float((message / noise).log10()) == pytest.approx(20, abs=1.0)


def test_noise_clips_spectrum():
    for number, piece in enumerate(noise_clips()):
        power = torch.fft.rfft(piece).abs().square()
        low, high = (power[2**k : 2 ** (k + 1)].mean() for k in (8, 15))
        slope = -float((high / low).log2()) / 7
        assert slope == pytest.approx(1.5 * number / 15, abs=0.1)
        assert float(piece.square().mean()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [(Augmentation(recordings_per_utterance=(0, 3)), "of 1 or more recordings"), (Augmentation(recordings_per_utterance=(4, 3)), "of 1 or more"),
     (Augmentation(speed_change=1.0), "from 0 to below 1")],
)  # fmt: skip
def test_composer_rejects_invalid_augmentation(augmentation, message):
    with pytest.raises(BadInput, match=message):
        UtteranceComposer(ONES, RATE, augmentation, seed=0)


# batches


def streams(kind: str, **options):
    source = UtteranceComposer(ONES, RATE, Augmentation(), 3) if kind == "composed" else ONES
    return SpeechBatches(source, "abcd", 4, seed=3, snr_db=(10, 20), **options)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", ["composed", "as they are"])
def test_speech_batches_resume_and_share(kind):
    stream = streams(kind)
    drawn = [next(stream) for _ in range(9)]
    for _, batch in zip(range(3), streams(kind), strict=False):
        assert same(batch, drawn.pop(0))
    later = streams(kind)
    later.load_state_dict({"position": 12})
    assert same(next(later), drawn[0])
    halves = [streams(kind, rank=rank, world_size=2) for rank in range(2)]
    for half in halves:
        half.load_state_dict({"position": 12})
    parts = [next(half) for half in halves]
    both = torch.cat([part.counts for part in parts])
    assert torch.equal(both, drawn[0].counts)
    for part, rows in zip(parts, (slice(0, 2), slice(2, 4)), strict=True):
        width = part.waveforms.shape[1]
        assert torch.equal(part.waveforms, drawn[0].waveforms[rows, :width])
    assert not same(drawn[0], drawn[1])


def test_speech_batches_epoch_with_new_noise():
    stream = streams("as they are")
    labels = [sorted(next(stream).labels[:, 0].tolist()) for _ in range(5)]
    assert labels == [[1, 2, 3, 4]] * 5
    first, second = next(stream), next(stream)
    assert not torch.equal(first.waveforms.sort(0).values, second.waveforms.sort(0).values)
    still = SpeechBatches(ONES, "abcd", 4, seed=3)
    assert sorted(map(len, (row[row != 0] for row in next(still).waveforms))) == [400, 480, 560, 720]


def test_collate_pads_waves_and_labels():
    batch = collate([ONES[0]._replace(text="ca"), ONES[3]._replace(text="")], "abc")
    assert batch.labels.tolist() == [[3, 1], [0, 0]]
    assert batch.counts.tolist() == [2, 0]
    assert batch.lengths.tolist() == [400, 720]
    assert not batch.waveforms[0, 400:].any()
    index = [each for each, _ in eval_batches(ONES, "abcd", batch_size=3)]
    assert index == [[0, 2, 1], [3]]


def test_speech_batches_reject_invalid_sizes():
    with pytest.raises(BadInput, match="a batch of 5 cannot be shared by 2 processes"):
        SpeechBatches(ONES, "abcd", 5, seed=0, world_size=2)
    with pytest.raises(BadInput, match="no utterances"):
        SpeechBatches([], "abcd", 4, seed=0)


def test_read_speech_captcha_subset():
    data = read_speech("captcha/A09", RATE)
    assert data.alphabet == "09A"
    with pytest.raises(BadInput, match="captcha has recordings of 0 to 9 and A to Z, none of 'a'"):
        read_speech("captcha/0a", RATE)
