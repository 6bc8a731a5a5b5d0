"""Speech recognition: label errors counted by hand, a run trained and used on files, bad input."""

import json

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch import nn

from torchstone import api
from torchstone.cli.main import main
from torchstone.data.audio.files import Recording
from torchstone.data.audio.speech_batches import Augmentation
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.systems.recurrent import ctc
from torchstone.tasks.audio import speech_recognition, transcribe

RATE, ALPHABET = 8000, "abc"
PITCH = {"a": 400.0, "b": 900.0, "c": 1800.0}


def tones(text: str, seconds: float = 0.12, gap: float = 0.06):
    """Each letter a pitch of its own, silence between."""
    t = np.arange(round(seconds * RATE)) / RATE
    silence = np.zeros(round(gap * RATE))
    pieces = [silence]
    for letter in text:
        pieces += [0.5 * np.sin(2 * np.pi * PITCH[letter] * t) * np.hanning(len(t)), silence]
    return np.concatenate(pieces)


def recording(text: str, message: str | None = None) -> Recording:
    wave = torch.from_numpy(tones(text)).float()
    return Recording(wave / wave.abs().max(), text if message is None else message, "", text)


class ToneRecognizer(nn.Module):
    """Recognizes each letter by its loudest mel band."""

    def __init__(self, audio: AudioFeatures):
        super().__init__()
        self.audio, self.weight = audio, nn.Parameter(torch.zeros(()))
        filters = torch.eye(audio.n_mels)
        waveforms = torch.stack([torch.from_numpy(tones(c)).float() for c in ALPHABET])
        x, _ = audio.extract(waveforms, torch.tensor([waveforms.shape[1]] * 3))
        self.bands = (filters @ x.amax(1).T).T.argmax(1).tolist()

    def output_lengths(self, lengths):
        return lengths

    def forward(self, x, lengths):
        loud = x[..., self.bands]
        quiet = torch.full_like(loud[..., :1], 2.0)
        return 10 * torch.cat([quiet, loud], -1) + self.weight


@pytest.fixture(scope="module")
def knowing():
    audio = AudioFeatures(n_mels=20)
    metadata = {"audio_features": vars(audio), "alphabet": ALPHABET, "mean": [-4.0] * 20, "std": [2.0] * 20}
    return ToneRecognizer(audio), metadata


def test_transcribe_greedy_and_beam_search(knowing):
    texts = ["a", "cab", "aa", "bbb", "abcabc"]
    for beams in (1, 5):
        found = transcribe.transcribe(*knowing, [recording(text) for text in texts], beams)
        assert [each[0][0] for each in found] == texts
    assert all(each[0][1] <= 1e-5 for each in found)


def test_measure_label_error_is_edits_per_label(knowing):
    model, metadata = knowing
    # heard cab where bab was message (1 of 3), aa where nothing was (2), abc where it was (0 of 3)
    recordings = [recording("cab", "bab"), recording("aa", ""), recording("abc", "abc")]
    found = transcribe.measure(model, metadata, recordings)
    assert found["label_error"] == pytest.approx(3 / 6)
    assert found["exact_match"] == pytest.approx(1 / 3)
    losses = []
    for each in recordings:
        x, frames = transcribe.feature_extractor(metadata, torch.device("cpu"))(
            each.wave[None], torch.tensor([len(each.wave)])
        )
        labels = torch.tensor([[ALPHABET.index(c) + 1 for c in each.text]], dtype=torch.int64)
        logs = model(x, frames).log_softmax(2).transpose(0, 1)
        counts = torch.tensor([len(each.text)])
        losses.append(F.ctc_loss(logs, labels.view(1, -1), frames, counts, reduction="sum").item())
    print(found, losses)
    assert found["loss"] == pytest.approx(sum(losses) / 6, rel=1e-5)


def test_measure_text_too_long_has_no_loss(knowing):
    long = recording("a", "abc" * 40)
    found = transcribe.measure(*knowing, [recording("abc"), long])
    assert found["label_error"] == pytest.approx(119 / 123)
    alone = transcribe.measure(*knowing, [recording("abc")])
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert not speech_recognition.is_long_enough(knowing[0], AudioFeatures(), long)
    assert speech_recognition.is_long_enough(knowing[0], AudioFeatures(), recording("abc"))
    frames = int(AudioFeatures().frame_counts(torch.tensor([len(long.wave)])))
    exactly = [
        text
        for n in range(80)
        if speech_recognition.is_long_enough(knowing[0], AudioFeatures(), recording("a", text := "a" * n))
    ]
    assert len(exactly[-1]) == (frames + 1) // 2  # a blank between any two


def test_report_plots_and_transcripts(knowing, tmp_path):
    recordings = [recording("cab", "bab"), *(recording(t) for t in ("a", "$b_", "abc") if t != "$b_")]
    transcribe.report(*knowing, recordings, tmp_path)
    lines = (tmp_path / "transcripts.txt").read_text().splitlines()
    assert lines == ["edits\treference\ttranscript", "1\tbab\tcab", "0\ta\ta", "0\tabc\tabc"]
    from PIL import Image

    for name in ("outputs.png", "transcripts.png"):
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels.shape[1] > 900
        assert pixels.std() > 10


def test_compose_utterances_is_deterministic():
    augmentation = Augmentation(recordings_per_utterance=(1, 3))
    ones = [recording(c)._replace(speaker="x") for c in ALPHABET]
    first, again = (
        speech_recognition.compose_utterances(ones, "test", AudioFeatures(), augmentation) for _ in range(2)
    )
    val = speech_recognition.compose_utterances(ones, "val", AudioFeatures(), augmentation)
    assert (len(first), len(val)) == (300, 100)
    assert all(torch.equal(a.wave, b.wave) for a, b in zip(first, again, strict=True))
    assert [r.text for r in first[:100]] != [r.text for r in val]


# a run on a folder of sounds of one's own


def folder(path, count: int = 40):
    draw = np.random.RandomState(0)
    rows = ["file\ttext"]
    for i in range(count):
        text = "".join(draw.choice(list(ALPHABET), draw.randint(1, 5)))
        rate = (8000, 16000)[i % 2]
        wave = np.repeat(tones(text), rate // 8000)
        soundfile.write(path / f"{i}.wav", wave, rate)
        rows.append(f"{i}.wav\t{text}")
    # much is message in little time
    soundfile.write(path / "hasty.wav", tones("a"), 8000)
    rows.append(f"hasty.wav\t{'abc' * 30}")
    (path / "transcripts.tsv").write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    sounds = folder(tmp_path_factory.mktemp("sounds"))
    out = tmp_path_factory.mktemp("run") / "own"
    run = api.train(
        "ctc/smoke", data=str(sounds), out=out, steps=100, stride=2, n_mels=20, batch_size=8, lr=2e-2,
        beam_size=4, device="cpu", quiet=True,
    )  # fmt: skip
    return run, out, sounds


@pytest.mark.sweep
def test_train_on_own_sounds(trained):
    run, out, _ = trained
    print(run.results, run.metadata["data"])
    assert run.results["test/label_error"] <= 0.1
    assert run.results["test/beam_error"] <= 0.1
    assert "1 too short for their text not trained on" in run.metadata["data"]
    assert run.metadata["alphabet"] == ALPHABET
    names = {f.name for f in (out / "pictures").iterdir()}
    assert {"outputs.png", "transcripts.png", "transcripts.txt"} <= names


def test_predict_files_and_folders(trained, tmp_path, capsys):
    _, out, _ = trained
    soundfile.write(tmp_path / "one.wav", tones("cab"), 8000)
    soundfile.write(tmp_path / "two.flac", np.stack([np.repeat(tones("ba"), 2)] * 2, 1), 16000)
    answers = api.predict(out, [str(tmp_path)], device="cpu")
    assert [a["text"] for a in answers] == ["cab", "ba"]
    assert [a["input"].rpartition("/")[2] for a in answers] == ["one.wav", "two.flac"]
    assert main(["predict", str(out), str(tmp_path / "one.wav")]) == 0
    assert capsys.readouterr().out == "cab\n"
    assert main(["predict", str(out), str(tmp_path / "one.wav"), "--beam-size", "6", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    (candidates,) = answer["candidates"]
    assert answer["text"] == candidates[0]["word"] == "cab"
    probabilities = [each["probability"] for each in candidates]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(probabilities) == 4
    assert 0.5 < answer["probability"] == probabilities[0]
    assert sum(probabilities) <= 1.0 + 1e-6


def test_evaluate_again_and_on_other_data(trained, tmp_path):
    run, out, _ = trained
    again = api.evaluate(out, device="cpu")
    assert again["label_error"] == pytest.approx(run.results["test/label_error"])
    other = folder(tmp_path, 12)
    found = api.evaluate(out, data=str(other), device="cpu")
    assert found["utterances"] == 13
    (tmp_path / "transcripts.tsv").write_text("0.wav\tabd\n1.wav\ta\n2.wav\tb\n3.wav\tb\n")
    with pytest.raises(BadInput, match="is written with 'd', but the model knows only 'abc'"):
        api.evaluate(out, data=str(other), device="cpu")


def test_predict_rejects_bad_files(trained, tmp_path, capsys):
    _, out, _ = trained
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), RATE)
    (tmp_path / "none").mkdir()
    for given, message in [
        (tmp_path / "silent.wav", "silent.wav is silent"),
        (tmp_path / "gone.wav", "there is no sound file"),
        (tmp_path / "none", "none holds no sound files"),
    ]:
        assert main(["predict", str(out), str(given)]) == 2
        error = capsys.readouterr().err
        print(error)
        assert message in error
        assert error.count("\n") == 1


def test_train_recognizer_rejects_too_short_sounds(tmp_path):
    rows = []
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", tones("a"), RATE)
        rows.append(f"{i}.wav\t{'a' * 90}")
    (tmp_path / "t.tsv").write_text("\n".join(rows))
    with pytest.raises(BadInput, match="is too short for its text"):
        api.train("ctc/smoke", data=str(tmp_path), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_ctc_paper_trains_on_mfcc():
    fields = {"features": "mfcc", "window_ms": 10, "hop_ms": 5, "n_mels": 26}
    fields |= {"recordings_per_utterance": (1, 1), "batch_size": 2, "steps": 2, "beam_size": 1}
    recipe = replace_fields(ctc.Recipe(variant="ctc_paper", device="cpu"), fields)
    run = next(iter(ctc.build(recipe)))
    losses = [float(run.update(next(run.stream))["loss"]) for _ in range(2)]
    print(losses, run.metadata["model_config"])
    assert run.metadata["model_config"]["inputs"] == 26
    assert run.metadata["model_config"]["peepholes"]
    assert all(np.isfinite(losses))


def test_feature_extractor_standardizes():
    run = next(iter(ctc.build(ctc.RECIPES["smoke"])))
    extract, rows = transcribe.feature_extractor(run.metadata, torch.device("cpu")), []
    for _ in range(30):
        batch = next(run.stream)
        x, frames = extract(batch.waveforms, batch.lengths)
        rows += [row[:n] for row, n in zip(x, frames, strict=True)]
    x = torch.cat(rows)
    assert x.mean(0).abs().max() < 0.1
    assert (x.std(0) - 1).abs().max() < 0.1
