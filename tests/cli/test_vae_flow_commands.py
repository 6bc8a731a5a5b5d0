"""VAE and Real NVP commands as a new user types them: grids, scores, inpainting, and errors."""

import json

import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone.data.vision.dataset import load_images


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vae"
    ts.train("vae/smoke", out=folder, quiet=True, intervals={"evaluate": 250})
    return folder


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "moons"
    ts.train("realnvp/moons", steps=20, out=folder, quiet=True, intervals={"evaluate": 20})
    return folder


@pytest.fixture(scope="module")
def glow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "glow"
    ts.train("glow/smoke", steps=6, out=folder, quiet=True, intervals={"evaluate": 6})
    return folder


@pytest.fixture(scope="module")
def flowpp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "flowpp"
    ts.train("flowpp/smoke", steps=6, out=folder, quiet=True, intervals={"evaluate": 6})
    return folder


@pytest.fixture
def digit(tmp_path):
    """A file of a digit, and a mask of its right half."""
    pictures = load_images("digits", size=8, channels=1, device="cpu")
    picture = pictures.test.take(torch.arange(1))[0, 0]
    mask = torch.zeros(8, 8, dtype=torch.uint8)
    mask[:, 4:] = 255
    for name, each in (("digit", picture), ("mask", mask)):
        Image.fromarray(each.numpy()).save(tmp_path / f"{name}.png")
    return tmp_path / "digit.png", tmp_path / "mask.png"


def test_sample_vae_writes_image_grid(capsys, vae, tmp_path):
    code, out, _ = run_cli(capsys, "sample", vae, "-n", 64, "--out", tmp_path / "sheet.png")
    assert code == 0
    assert out.strip() == str(tmp_path / "sheet.png")
    sheet = Image.open(out.strip())
    assert sheet.size == (8 * 50 + 2, 8 * 50 + 2)
    run_cli(capsys, "sample", vae, "-n", 64, "--out", tmp_path / "again.png")
    assert sheet.tobytes() == Image.open(tmp_path / "again.png").tobytes()
    run_cli(capsys, "sample", vae, "-n", 64, "--seed", 1, "--out", tmp_path / "other.png")
    assert sheet.tobytes() != Image.open(tmp_path / "other.png").tobytes()


def test_train_vae_run_folder_files(vae):
    names = {file.name for file in (vae / "pictures").iterdir()}
    assert {"samples.png", "samples.gif", "plane.png", "interpolation.png", "filled.png"} <= names
    assert len(list((vae / "samples").glob("*.png"))) == 3


def test_sample_vae_inpaints(capsys, vae, digit, tmp_path):
    known, mask = digit
    words = ("sample", vae, "--inpaint-image", known, "--mask", mask, "-n", 4)
    code, _, _ = run_cli(capsys, *words, "--out", tmp_path / "filled.png")
    assert code == 0
    assert Image.open(tmp_path / "filled.png").size == (2 * 50 + 2, 2 * 50 + 2)
    assert "mask" in assert_rejected(
        capsys, "sample", vae, "--inpaint-image", known, "--out", tmp_path / "x.png"
    )
    wrong = ("--inpaint-image", tmp_path / "none.png", "--mask", mask)
    assert "does not exist" in assert_rejected(capsys, "sample", vae, *wrong, "--out", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_sample_glow_follows_directions(capsys, glow, digit, tmp_path):
    names = {file.name for file in (glow / "pictures").iterdir()}
    assert {"samples.png", "interpolation.png", "directions.png"} <= names
    words = ("sample", glow, "--from-label", 3, "--to-label", 8)
    code, out, _ = run_cli(capsys, *words, "-n", 2, "--temperature", 0.5, "--out", tmp_path / "path.png")
    assert code == 0
    assert Image.open(out.strip()).size == (9 * 50 + 2, 2 * 50 + 2)
    code, out, _ = run_cli(capsys, *words, "--image", digit[0], "--out", tmp_path / "one.png")
    assert code == 0
    assert Image.open(out.strip()).size == (9 * 50 + 2, 50 + 2)
    sheet = tmp_path / "a.png"
    message = assert_rejected(capsys, *words[:-1], "eleven", "--out", sheet)
    assert "no class 'eleven'" in message
    assert "--to-label" in assert_rejected(capsys, *words[:-2], "--out", sheet)
    none = ("--image", tmp_path / "none.png")
    assert "none.png does not exist" in assert_rejected(capsys, *words, *none, "--out", sheet)
    assert not sheet.exists()


def test_flowpp_commands(capsys, flowpp, digit, tmp_path):
    names = {file.name for file in (flowpp / "pictures").iterdir()}
    assert {"samples.png", "interpolation.png", "directions.png"} <= names
    words = ("sample", flowpp, "-n", 4, "--temperature", 0.7, "--out", tmp_path / "sheet.png")
    code, out, _ = run_cli(capsys, *words)
    assert code == 0
    assert Image.open(out.strip()).size == (2 * 50 + 2, 2 * 50 + 2)
    path = ("sample", flowpp, "--from-label", 3, "--to-label", 8, "--image", digit[0])
    code, out, _ = run_cli(capsys, *path, "--out", tmp_path / "path.png")
    assert code == 0
    assert Image.open(out.strip()).size == (9 * 50 + 2, 50 + 2)
    code, out, _ = run_cli(capsys, "predict", flowpp, digit[0], "--json")
    (answer,) = json.loads(out)
    assert code == 0
    assert set(answer) == {"input", "label", "validation_rank", "log_density", "bits_per_dimension"}
    result = json.loads((flowpp / "result.json").read_text())["metrics"]
    again = json.loads(run_cli(capsys, "eval", flowpp, "--json")[1])
    for name in ("bits_per_dimension", "importance_bound"):
        assert again[name] == pytest.approx(result[f"test/{name}"], abs=1e-5)
    for option in (("--importance-samples", -1), ("--dequantization", "none"), ("--pixel-levels", 1)):
        folder = tmp_path / "refused"
        assert option[0].removeprefix("--").replace("-", "_") in assert_rejected(
            capsys, "train", "flowpp/smoke", *option, "--out", folder
        ).replace("-", "_")
        assert not folder.exists()


def test_predict_and_explain_vae(capsys, vae, digit, tmp_path):
    code, out, _ = run_cli(capsys, "predict", vae, digit[0], "--json")
    (answer,) = json.loads(out)
    assert code == 0
    assert answer["label"] in ("usual", "unusual")
    assert set(answer) == {"input", "label", "validation_rank", "elbo", "kl"}
    code, out, _ = run_cli(capsys, "predict", vae, digit[0], "--explain", tmp_path / "why.png")
    assert code == 0
    assert (tmp_path / "why.png").exists()
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png" in assert_rejected(capsys, "predict", vae, tmp_path / "text.png")


@pytest.mark.sweep
def test_eval_vae_and_flow_repeat_test_metrics(capsys, vae, moons):
    for run, name in ((vae, "iwae_50"), (moons, "loss")):
        result = json.loads((run / "result.json").read_text())["metrics"]
        again = json.loads(run_cli(capsys, "eval", run, "--json")[1])
        assert again[name] == pytest.approx(result[f"test/{name}"], abs=1e-5)


def test_sample_and_predict_points(capsys, moons, tmp_path):
    code, out, _ = run_cli(capsys, "sample", moons, "-n", 100, "--out", tmp_path / "plane.png")
    assert code == 0
    assert Image.open(out.strip()).width > 300
    code, out, _ = run_cli(capsys, "predict", moons, "0,1", "9,9")
    assert code == 0
    assert out.splitlines()[1].startswith("9,9: unusual (likelier than 0.0% of")
    assert (moons / "pictures" / "density.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "vae/smoke", "--latent-samples", "0"), "at least 1"),
        (("train", "vae/smoke", "--binarization", "dark"), "stochastic"),
        (("train", "vae/smoke", "--data", "moons"), "moons"),
        (("train", "realnvp/smoke", "--data", "moons"), "--variant realnvp_points"),
        (("train", "realnvp/moons", "--data", "digits"), "--variant realnvp_digits"),
        (("train", "realnvp/smoke", "--pixel-levels", "1"), "2 to 256"),
        (("train", "glow/smoke", "--data", "moons"), "moons"),
        (("train", "glow/smoke", "--pixel-levels", "1"), "2 to 256"),
    ],
)
def test_train_vae_flow_rejects_recipe_and_leaves_nothing(capsys, tmp_path, words, message):
    assert message in assert_rejected(capsys, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sample_vae_flow_rejects_options(capsys, vae, moons, tmp_path):
    sheet = tmp_path / "a.png"
    assert "--out" in assert_rejected(capsys, "sample", vae)
    assert "label" in assert_rejected(capsys, "sample", vae, "--label", "3", "--out", sheet)
    paths = ("--from-label", "3", "--to-label", "8")
    assert "from_label" in assert_rejected(capsys, "sample", vae, *paths, "--out", sheet)
    assert "no mean latents" in assert_rejected(capsys, "sample", moons, *paths, "--out", sheet)
    assert "prompt" in assert_rejected(capsys, "sample", moons, "--prompt", "two moons", "--out", sheet)
    assert "positive" in assert_rejected(capsys, "sample", vae, "--temperature", "0", "--out", sheet)
    assert ".png" in assert_rejected(capsys, "sample", vae, "--out", tmp_path / "a.jpg")
    assert not sheet.exists()
