"""`eval --inception FILE` for every system that generates images; other files are rejected."""

import json
import sys

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image
from shared_cache import made_once
from torch import nn

import torchstone as ts
from torchstone.tasks import evaluate_samples
from torchstone.tasks.diffusion import inference

MAKERS = ("gan", "dcgan", "cgan", "vae", "realnvp", "ddpm")


class Coarse(nn.Module):
    """In Inception's place: features are means of 2 × 2 fields of each color."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (nn.functional.adaptive_avg_pool2d(x.float() / 255, 2).flatten(1),)


@pytest.fixture(scope="module")
def run_of(session_folder):
    """The folder of a short run by its name, trained once a session."""

    def find(name):
        fields = {"steps": 4}
        if name in ("gan", "dcgan", "cgan", "ddpm"):
            fields["eval_samples"] = 20
        spec = name if "/" in name else f"{name}/smoke"
        folder = session_folder / f"inception-{name.replace('/', '-')}"
        return made_once(folder, lambda new: ts.train(spec, out=new / "run", quiet=True, **fields)) / "run"

    return find


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.sweep if name in ("dcgan", "cgan", "ddpm") else ())
        for name in MAKERS
    ],
)
def test_inception_metrics_for_every_generative_system(capsys, run_of, tmp_path, monkeypatch, name):
    files = []
    stand_in = lambda file, device: files.append(file) or Coarse()  # noqa: E731
    monkeypatch.setattr(evaluate_samples, "load_inception", stand_in)
    code, plain, _ = run_cli(capsys, "eval", run_of(name), "--json")
    file = tmp_path / "weights.pth"
    code_, out, _ = run_cli(capsys, "eval", run_of(name), "--json", "--inception", file)
    assert (code, code_, files) == (0, 0, [str(file)])
    without, metrics = json.loads(plain), json.loads(out)
    new = {key for key in metrics if key.startswith("inception_")}
    stated = {f"inception_frechet_{each}" for each in ("distance_floor", "features", "samples", "images")}
    assert new == {"inception_frechet_distance", "inception_precision", "inception_recall"} | stated
    assert {key: metrics[key] for key in without} == without
    assert metrics["inception_frechet_distance"] > 0


@pytest.mark.sweep
def test_inception_metrics_for_captioned_samples(capsys, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(120):
        colour = ("red", "green", "blue")[number % 3]
        Image.new("RGB", (32, 32), colour).save(photos / f"{number}.png")
        (photos / f"{number}.txt").write_text(f"{colour} square {number // 3}")
    run = tmp_path / "run"
    ts.train("ddpm/emoji-text", data=str(photos), out=run, steps=1, batch_size=4, sampling_steps=2,
             eval_samples=4, quiet=True)  # fmt: skip
    monkeypatch.setattr(inference, "load_inception", lambda file, device: Coarse())
    words = ("--inception", tmp_path / "weights.pth", "--data", photos)
    code, out, _ = run_cli(capsys, "eval", run, "--json", *words)
    metrics = json.loads(out)
    assert code == 0
    assert metrics["inception_frechet_distance"] > 0
    assert 0 <= metrics["match"] <= 1
    assert metrics["samples"] >= 3


def test_inception_without_package_is_rejected(capsys, run_of, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    line = assert_rejected(capsys, "eval", run_of("gan"), "--inception", tmp_path / "weights.pth")
    assert "pip install 'torchstone[inception]'" in line


def test_inception_rejects_bad_files_and_other_systems(capsys, run_of, tmp_path):
    file = tmp_path / "weights.pth"
    line = assert_rejected(capsys, "eval", run_of("gan"), "--inception", file)
    assert f"there is no file {file}" in line
    file.write_bytes(b"no weights")
    assert "holds no weights" in assert_rejected(capsys, "eval", run_of("vae"), "--inception", file)
    assert "points are no images" in assert_rejected(
        capsys, "eval", run_of("realnvp/moons"), "--inception", file
    )
    line = assert_rejected(capsys, "eval", run_of("lenet5"), "--inception", file)
    assert "lenet5 evaluates without 'inception'" in line
