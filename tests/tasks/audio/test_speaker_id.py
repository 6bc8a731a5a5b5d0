"""Speaker identification: trained on sounds and on vectors, evaluated, used on files; bad input."""

import json

import numpy as np
import pytest
import soundfile
import torch

from torchstone import api
from torchstone.cli.main import main
from torchstone.data.audio.speakers import SpeakerSplit, read_speakers
from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.systems.recurrent import lstm
from torchstone.tasks.audio import speaker_id

RATE = 8000
PITCH = {"ann": 900.0, "bob": 300.0, "eve": 500.0}


def voice(name: str, seconds: float, draw, rate: int = RATE):
    """A voice of harmonics with a pitch of its own, rising and falling at random."""
    t = np.arange(round(seconds * rate)) / rate
    pitch = PITCH[name] * (1 + 0.05 * np.sin(2 * np.pi * draw.uniform(1, 3) * t + draw.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    return 0.2 * sum(np.sin(k * phase) / k for k in range(1, 4)) + 0.002 * draw.randn(len(t))


def folder(path, count: int = 12):
    draw = np.random.RandomState(0)
    for name in PITCH:
        (path / name).mkdir()
        for i in range(count):
            rate, seconds = (8000, 22050)[i % 2], draw.uniform(0.2, 0.6)
            soundfile.write(path / name / f"{i}.wav", voice(name, seconds, draw, rate), rate)
    return str(path)


SMALL = {"task": "voices", "hidden": 16, "batch_size": 8, "lr": 1e-2, "seq_len": 20, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    spec = folder(tmp_path_factory.mktemp("voices"))
    out = tmp_path_factory.mktemp("run") / "own"
    run = api.train("lstm/voices", data=spec, out=out, steps=60, quiet=True, **SMALL)
    return run, out, spec


def test_train_on_own_sounds(trained):
    run, out, _ = trained
    print(run.results, run.metadata["data"])
    assert run.results["test/accuracy"] == 1.0
    assert run.metadata["classes"] == ["ann", "bob", "eve"]
    assert (out / "pictures" / "confusion.png").stat().st_size > 5000


def test_predict_files_and_folders(trained, tmp_path, capsys):
    _, out, _ = trained
    draw = np.random.RandomState(5)
    soundfile.write(tmp_path / "a.wav", np.stack([voice("eve", 3.0, draw, 44100)] * 2, 1), 44100)
    soundfile.write(tmp_path / "b.flac", voice("bob", 0.1, draw), RATE)
    answers = api.predict(out, [str(tmp_path)], device="cpu")
    assert [a["label"] for a in answers] == ["eve", "bob"]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
        assert answer["probability"] == max(answer["probabilities"].values()) > 0.5
    assert main(["predict", str(out), str(tmp_path / "a.wav"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["label"] == "eve"
    assert main(["predict", str(out), str(tmp_path / "a.wav"), "--beam-size", "3"]) == 2
    assert "does not predict with 'beam_size'" in capsys.readouterr().err


def test_evaluate_again_and_on_other_data(trained, tmp_path):
    run, out, _ = trained
    again = api.evaluate(out, device="cpu")
    assert again["loss"] == pytest.approx(run.results["test/loss"], rel=1e-4)
    found = api.evaluate(out, data=folder(tmp_path, 3), device="cpu")
    assert found["items"] == 9
    (tmp_path / "eve").rename(tmp_path / "ida")
    with pytest.raises(BadInput, match="speakers ann, bob, ida, but the model knows ann, bob, eve"):
        api.evaluate(out, data=str(tmp_path), device="cpu")


def test_predict_rejects_bad_files(trained, tmp_path, capsys):
    _, out, _ = trained
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), RATE)
    wave = np.clip(3 * np.sin(np.arange(8000) * 0.1), -1, 1)
    soundfile.write(tmp_path / "clipped.wav", wave, RATE)
    for name, message in [
        ("silent.wav", "is silent"),
        ("clipped.wav", "is clipped: "),
        ("gone.wav", "no sound file"),
    ]:
        assert main(["predict", str(out), str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        print(error)
        assert message in error
        assert error.count("\n") == 1


def test_predict_logits_ignores_padding(trained):
    _, out, spec = trained
    model, metadata = api.load(out), json.loads((out / "checkpoint" / "meta.json").read_text())["metadata"]
    test = read_speakers(spec, RATE).test
    together = speaker_id.predict_logits(model, metadata, test)
    for i in range(len(test)):
        alone = speaker_id.predict_logits(model, metadata, test.subset([i]))
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)
    order = torch.randperm(len(test)).tolist()
    torch.testing.assert_close(
        speaker_id.predict_logits(model, metadata, test.subset(order)), together[order], rtol=1e-4, atol=1e-5
    )


def test_normalize_by_training_split(trained):
    run, _, spec = trained
    data = read_speakers(spec, RATE)
    x = torch.cat(
        [
            speaker_id.normalize(speaker_id.extract_features(w, vars(AudioFeatures(RATE))), run.metadata)
            for w in data.train.items
        ]
    )
    assert x.mean(0).abs().max() < 1e-3
    assert (x.std(0) - 1).abs().max() < 1e-3


def test_measure_accuracy(trained):
    _, out, spec = trained
    model, metadata = api.load(out), json.loads((out / "checkpoint" / "meta.json").read_text())["metadata"]
    test = read_speakers(spec, RATE).test
    guesses = speaker_id.predict_logits(model, metadata, test).argmax(1).tolist()
    wrong = [(g + (i < 1)) % 3 for i, g in enumerate(guesses)]
    found = speaker_id.measure(model, metadata, SpeakerSplit(test.items, wrong, test.names))
    assert found["accuracy"] == pytest.approx(1 - 1 / len(test))


# vectors


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("series"), np.random.RandomState(1)
    for split, count in (("TRAIN", 12), ("TEST", 6)):
        lines = ["@timeStamps false", "@classLabel true up down", "@data"]
        for i in range(count):
            n, sign = draw.randint(5, 12), (1, -1)[i % 2]
            rows = [sign * np.linspace(-1, 1, n) + 0.1 * draw.randn(n), draw.randn(n)]
            lines.append(":".join([*(",".join(map(str, row)) for row in rows), ("up", "down")[i % 2]]))
        (folder / f"Ramps_{split}.ts").write_text("\n".join(lines))
    out = folder / "run"
    run = api.train(
        "lstm/voices", data=str(folder / "Ramps_TRAIN.ts"), out=out, steps=80, quiet=True, **SMALL
    )
    return run, out


def test_predict_vectors(vectors, tmp_path, capsys):
    run, out = vectors
    print(run.results, run.metadata["data"])
    assert run.results["test/accuracy"] == 1.0
    assert run.metadata["audio_features"] is None
    (tmp_path / "a.csv").write_text("\n".join(f"{1 - i / 4},0.3" for i in range(9)) + "\n\n")
    assert main(["predict", str(out), str(tmp_path / "a.csv")]) == 0
    assert ": down (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.wav", "", "reads vectors of 2 numbers, not sound"),
        ("a.csv", None, "there is no file"),
        ("a.csv", "", "is empty"),
        ("a.csv", "1,2\n1,2,3\n", "line 2: give 2 numbers"),
        ("a.csv", "1,2\n1,x\n", "line 2: give 2 numbers"),
        ("a.csv", "1,inf\n", "line 1: give 2 numbers"),
    ],
)
def test_predict_rejects_bad_vector_files(name, text, message, vectors, tmp_path, capsys):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main(["predict", str(vectors[1]), str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    print(error)
    assert message in error


def test_evaluate_rejects_other_data(vectors, trained):
    with pytest.raises(BadInput, match="the speakers ann, bob, eve, but the model knows down, up"):
        api.evaluate(vectors[1], data=trained[2], device="cpu")
    with pytest.raises(BadInput, match="no speakers at 'nowhere'"):
        next(iter(lstm.build(lstm.Recipe(task="voices", data="nowhere", variant="bilstm"))))
