"""`eval --inception FILE` as it is typed, for every family that makes pictures; what is no such file is refused."""

import json
import sys

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image
from torch import nn

import torchstone as ts
from torchstone.tasks import evaluate_samples
from torchstone.tasks.diffusion import inference

MAKERS = ("gan", "dcgan", "cgan", "vae", "realnvp", "ddpm")


class Coarse(nn.Module):
    """In Inception's place: features are means of 2 × 2 fields of each colour."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (nn.functional.adaptive_avg_pool2d(x.float() / 255, 2).flatten(1),)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in MAKERS:
        judged = {"samples": 20} if "gan" in name else {}
        if name == "ddpm":
            judged = {"eval_samples": 20}
        ts.train(f"{name}/smoke", out=folder / name, steps=4, quiet=True, **judged)
    ts.train("realnvp/moons", out=folder / "moons", steps=2, quiet=True)
    ts.train("lenet5/smoke", out=folder / "lenet5", steps=2, quiet=True)
    return folder


@pytest.mark.parametrize("name", MAKERS)
def test_every_maker_of_pictures_is_compared_by_it_too(capsys, runs, tmp_path, monkeypatch, name):
    asked = []
    stand_in = lambda file, device: asked.append(file) or Coarse()  # noqa: E731
    monkeypatch.setattr(evaluate_samples, "load", stand_in)
    code, plain, _ = run_cli(capsys, "eval", runs / name, "--json")
    file = tmp_path / "weights.pth"
    code_, out, _ = run_cli(capsys, "eval", runs / name, "--json", "--inception", file)
    assert (code, code_, asked) == (0, 0, [str(file)])
    without, found = json.loads(plain), json.loads(out)
    new = {key for key in found if key.startswith("inception_")}
    assert new == {"inception_distance", "inception_precision", "inception_recall"}
    assert {key: found[key] for key in without} == without
    assert found["inception_distance"] > 0


def test_samples_of_captions_are_compared_with_their_pictures(capsys, tmp_path, monkeypatch):
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
    found = json.loads(out)
    assert code == 0
    assert found["inception_distance"] > 0
    assert 0 <= found["match"] <= 1
    assert found["samples"] >= 3


def test_that_the_package_is_not_there_is_said(capsys, runs, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    line = assert_rejected(capsys, "eval", runs / "gan", "--inception", tmp_path / "weights.pth")
    assert "pip install 'torchstone[inception]'" in line


def test_what_has_no_use_for_it_is_refused(capsys, runs, tmp_path):
    file = tmp_path / "weights.pth"
    line = assert_rejected(capsys, "eval", runs / "gan", "--inception", file)
    assert f"there is no file {file}" in line
    file.write_bytes(b"no weights")
    assert "holds no weights" in assert_rejected(capsys, "eval", runs / "vae", "--inception", file)
    assert "points are no pictures" in assert_rejected(capsys, "eval", runs / "moons", "--inception", file)
    line = assert_rejected(capsys, "eval", runs / "lenet5", "--inception", file)
    assert "lenet5 evaluates without 'inception'" in line
