"""Exported files, used as another program would: ONNX Runtime and torch.export.load alone."""

import json
import os
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import torchstone as ts
from torchstone.cli.main import main
from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.preprocess import preprocess
from torchstone.errors import BadInput
from torchstone.runs import export, load
from torchstone.systems import CATALOGUE

WITHIN = 1e-4


@pytest.fixture
def run(trained_run):
    return trained_run("lenet5")


def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def facts_of(opened):
    found = opened.get_modelmeta().custom_metadata_map
    return {key: json.loads(value) for key, value in found.items()}


def awake(model):
    """With last layers, and scales after normalisation, that are not zero or nearly so at the start."""
    for name, p in model.named_parameters():
        if p.ndim == 2 or name.startswith("classifier"):
            torch.nn.init.normal_(p, 0, p[0].numel() ** -0.5)
        elif p.ndim == 1 and not p.any():
            torch.nn.init.normal_(p, 0, 0.1)
    return model


def furthest(model, metadata, use, facts):
    """Of batches of 1, 3 and 5, drawn here: the largest difference, by the largest logit above 1."""
    apart = []
    for batch in (1, 3, 5):
        shape = [batch, *facts["input"]["shape"][1:]]
        if facts["input"]["type"] == "uint8":
            pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
            ready = normalize(pixels, metadata["picture"])
        else:
            pixels = ready = torch.rand(shape) * 5
        with torch.no_grad():
            expected = model(ready)
        found = torch.as_tensor(use(pixels))
        assert list(expected.shape) == [batch, *facts["output"]["shape"][1:]] == list(found.shape)
        assert expected.std() > 1e-3
        apart.append(float((found - expected).abs().max() / expected.abs().max().clamp(min=1)))
    return max(apart)


TEXT = (
    "bigbird",
    *("transformer", "gpt", "performer", "bert", "albert", "distilbert", "longformer", "linformer", "t5"),
    *("rnn", "lstm", "gru", "ctc", "seq2seq"),
)
OTHERWISE = {
    "vlm": "vlm writes an answer token by token.*torchstone predict",
    "clip": "clip takes images and texts.*--format hf",
    "dalle2": "dalle2 takes images and texts.*--format hf",  # of its first stage, CLIP
    "cyclegan": "cyclegan makes images of images.*torchstone predict",
    "pix2pix": "pix2pix makes images of images.*torchstone predict",
}
MAKING = tuple(
    entry.name for entry in CATALOGUE if entry.chapter == "generative" and entry.name not in OTHERWISE
)
PLAYING = tuple(
    entry.name for entry in CATALOGUE if entry.chapter in ("reinforcement", "planning", "multiagent")
)


@pytest.mark.parametrize("name", MAKING)
def test_systems_that_make_pictures_say_so(name, tmp_path):
    entry = ts.systems.find(name)[0]
    run = next(iter(entry.module().build(entry.module().RECIPES["smoke"])))
    with pytest.raises(BadInput, match=f"{name} generates from noise.*torchstone sample"):
        export.export(run.state["model"], run.metadata, name, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", OTHERWISE)
def test_systems_of_images_and_words_say_what_they_have_instead(name, tmp_path):
    entry = ts.systems.find(name)[0]
    run = next(iter(entry.module().build(entry.module().RECIPES["smoke"])))
    with pytest.raises(BadInput, match=OTHERWISE[name]):
        export.export(run.state["model"], run.metadata, name, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", PLAYING)
def test_agents_say_that_they_play(name, tmp_path):
    entry = ts.systems.find(name)[0]
    run = next(iter(entry.module().build(entry.module().RECIPES["smoke"])))
    with pytest.raises(BadInput, match=f"{name} acts in an environment.*torchstone play"):
        export.export(run.state["model"], run.metadata, name, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", TEXT)
def test_systems_of_text_say_what_they_have_instead(name, tmp_path):
    entry = ts.systems.find(name)[0]
    run = next(iter(entry.module().build(entry.module().RECIPES["smoke"])))
    with pytest.raises(BadInput, match=f"{name} takes neither images nor rows"):
        export.export(run.state["model"], run.metadata, name, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


# networks of the layers that the others have too
LARGER = ("alexnet", "vgg", "googlenet", "senet", "cbam", "mobilenet", "efficientnet", "deeplab", "vit")


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(e, id=e.name, marks=pytest.mark.sweep if e.name in LARGER else ())
        for e in CATALOGUE
        if e.name not in (*TEXT, *MAKING, *PLAYING, *OTHERWISE)
    ],
)
def test_every_system_exports(entry, tmp_path):
    """Untrained, from a file that is read back here."""
    built = next(iter(entry.module().build(entry.module().RECIPES["smoke"])))
    model, metadata = awake(built.state["model"]), built.metadata
    done = export.export(model, metadata, entry.name, tmp_path / "model.onnx")
    opened = session(tmp_path / "model.onnx")
    facts = facts_of(opened)
    (given,), (answer,) = opened.get_inputs(), opened.get_outputs()
    assert facts == done["facts"]
    assert facts["classes"] == metadata["classes"]
    assert (given.name, given.shape) == (facts["input"]["name"], facts["input"]["shape"])
    assert (answer.name, answer.shape) == ("logits", facts["output"]["shape"])
    apart = furthest(model, metadata, lambda x: opened.run(None, {given.name: x.numpy()})[0], done["facts"])
    print(f"{entry.name}: ONNX within {apart:.1e}, by its own account {done['relative_error']:.1e}")
    assert apart <= WITHIN
    assert not model.training


@pytest.mark.parametrize("name", ["perceptron", "lenet5_paper", "resnet", "deeplab"])
@pytest.mark.sweep
def test_torch_reads_its_own(name, tmp_path):
    entry, variant = ts.systems.find(name)
    recipe = entry.module().RECIPES["smoke"]
    fields = {"variant": variant} if name == "lenet5_paper" else {}
    built = next(iter(entry.module().build(type(recipe)(**{**vars(recipe), **fields}))))
    model = awake(built.state["model"])
    export.export(model, built.metadata, name, tmp_path / "model.pt2")
    extra = {"card.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    facts = json.loads(extra["card.json"])
    apart = furthest(model, built.metadata, program.module(), facts)
    print(f"{name}: torch.export within {apart:.1e}")
    assert apart <= WITHIN


def test_a_stranger_gets_what_predict_says(run, tmp_path, capsys):
    """With NumPy and ONNX Runtime alone, from what stands in the file."""
    assert main(["export", str(run), "--out", str(tmp_path / "a.onnx")]) == 0
    said = capsys.readouterr().out
    print(said)
    assert "images: batch × 1 × 32 × 32" in said
    pictures = [tmp_path / f"{number}.png" for number in range(5)]
    for digit, file in zip(load_digits().images, pictures, strict=False):
        Image.fromarray((digit / 16 * 255).astype(np.uint8)).save(file)
    expected = ts.predict(run, pictures, device="cpu")
    opened = session(tmp_path / "a.onnx")
    facts = facts_of(opened)
    assert facts["picture"] == load.load_run(run)[1]["picture"]
    batch = np.concatenate([preprocess(file, facts["picture"]).numpy() for file in pictures])
    assert batch.dtype == np.uint8
    logits = opened.run(["logits"], {"images": batch})[0]
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for row, answer in zip(chances, expected, strict=True):
        assert facts["classes"][row.argmax()] == answer["label"]
        assert row.max() == pytest.approx(answer["probability"], abs=1e-5)


def test_the_file_tells_of_no_folder_of_this_machine(run, tmp_path):
    for ending in export.ENDINGS:
        file = tmp_path / f"model{ending}"
        ts.export(run, out=file)
        content = file.read_bytes()
        assert b".py" not in content
        assert os.path.dirname(ts.__file__).encode() not in content
    ts.export(run, out=tmp_path / "model.pt2")  # again: it replaces its file
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "model.pt2"]


def test_a_file_that_differs_is_not_put_in_place(run, tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_text("before")
    read = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession,
        "run",
        lambda self, *args: [each + np.float32(2e-3) for each in read(self, *args)],
    )
    with pytest.raises(BadInput, match=r"would differ from the model by 0\.00"):
        ts.export(run, out=tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "before"
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_another_shape_is_infinitely_far(run):
    model = torch.nn.Linear(3, 2)
    assert export.distance(model, lambda x: model(x)[:, :1], torch.rand(1, 3)) == float("inf")
    assert export.distance(model, model, torch.rand(1, 3)) == 0


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("model.tflite", "writes .onnx or .pt2 files"),
        ("model", "writes .onnx or .pt2 files"),
        ("nowhere/model.onnx", "there is no folder"),
        ("folder.pt2", "is a folder"),
    ],
)
def test_bad_names_are_refused_before_anything_is_written(run, tmp_path, capsys, out, said):
    (tmp_path / "folder.pt2").mkdir()
    code = main(["export", str(run), "--out", str(tmp_path / out)])
    err = capsys.readouterr().err
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert os.listdir(tmp_path) == ["folder.pt2"]


def test_without_the_packages_one_line_says_which(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(run), "--out", str(tmp_path / "a.onnx")]) == 2
    err = capsys.readouterr().err
    print(err)
    assert "pip install 'torchstone[export]'" in err
    assert "onnxscript" in err
    assert not os.listdir(tmp_path)
    ts.export(run, out=tmp_path / "a.pt2")  # which needs none of them


def test_export_without_a_name_or_a_run(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "a.onnx")]) == 2
    assert "not a run folder" in capsys.readouterr().err
