"""GAN commands as a new user types them: grids, metrics, and one line for each error."""

import json

import numpy as np
import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("gan", "dcgan", "cgan"):
        short = {"steps": 20, "eval_samples": 20, "quiet": True}
        ts.train(f"{name}/smoke", out=folder / name, intervals={"evaluate": 10}, **short)
    return folder


@pytest.mark.parametrize("name", ["gan", "dcgan", "cgan"])
def test_sample_gan_writes_image_grid(capsys, runs, tmp_path, name):
    run, sheets = runs / name, []
    for file, words in (("a", ()), ("b", ()), ("c", ("--seed", 1))):
        code, out, _ = run_cli(capsys, "sample", run, "-n", 64, "--out", tmp_path / f"{file}.png", *words)
        assert (code, out.strip()) == (0, str(tmp_path / f"{file}.png"))
        with Image.open(out.strip()) as image:
            sheets.append(np.asarray(image))
    columns = 10 if name == "cgan" else 8
    assert sheets[0].shape == (-(-64 // columns) * 50 + 2, columns * 50 + 2)
    assert (sheets[0] == sheets[1]).all(), "the same noise"
    assert (sheets[0] != sheets[2]).any()
    images = torch.stack(ts.sample(run, num_samples=64))
    assert images.shape == (64, 1, 8, 8)
    assert images.dtype == torch.uint8
    large = images[9, 0].numpy().repeat(6, 0).repeat(6, 1)
    row, column = divmod(9, columns)
    top, left = row * 50 + 2, column * 50 + 2
    assert (sheets[0][top : top + 48, left : left + 48] == large).all()


@pytest.mark.parametrize("name", ["gan", "dcgan", "cgan"])
def test_train_gan_run_folder_files(runs, name):
    pictures = {file.name for file in (runs / name / "pictures").iterdir()}
    assert {"samples.png", "samples.gif", "nearest.png", "curves.png"} <= pictures
    sheets = sorted(file.name for file in (runs / name / "samples").iterdir())
    assert sheets == ["000000.png", "000010.png", "000020.png"]
    sheets = {each: (runs / name / "samples" / each).read_bytes() for each in sheets}
    # of the weights that are best by validation
    assert (runs / name / "pictures" / "samples.png").read_bytes() in sheets.values()
    assert sheets["000020.png"] != sheets["000000.png"]
    rows = [json.loads(r) for r in (runs / name / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["split"] == "val"]
    assert len(evaluations) == 3
    for row in evaluations:
        assert {"frechet_distance", "covered_classes", "relative_variance", "mode_collapse"} <= set(row)


@pytest.mark.parametrize("name", ["gan", "cgan"])
def test_eval_gan_repeats_test_metrics(capsys, runs, name):
    result = json.loads((runs / name / "result.json").read_text())["metrics"]
    again = json.loads(run_cli(capsys, "eval", runs / name, "--json")[1])
    for name_ in (
        "frechet_distance",
        "precision",
        "recall",
        "relative_variance",
        "covered_classes",
        "confident_rate",
    ):
        assert again[name_] == pytest.approx(result[f"test/{name_}"], rel=1e-5), name_


def test_sample_cgan_label(capsys, runs, tmp_path):
    run = runs / "cgan"
    code, out, _ = run_cli(capsys, "sample", run, "-n", 9, "--label", 3, "--out", tmp_path / "threes.png")
    assert code == 0
    with Image.open(out.strip()) as image:
        assert image.size == (3 * 50 + 2, 3 * 50 + 2)
    three, eight = (torch.stack(ts.sample(run, num_samples=9, label=k)) for k in ("3", 8))
    assert not torch.equal(three, eight)
    in_turn = torch.stack(ts.sample(run, num_samples=9))
    assert torch.equal(in_turn[3], three[3])
    assert torch.equal(in_turn[8], eight[8])


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("cgan", ("--label", "eleven"), "no label 'eleven'"),
        ("cgan", ("--label", "10"), "no label '10'"),
        ("dcgan", ("--label", "3"), "train cgan for that"),
        ("gan", ("-n", "0"), "-n"),
        ("gan", ("-n", "many"), "-n"),
        ("gan", ("--prompt", "seven"), "without 'prompt'"),
        ("gan", ("--temperature", "2"), "without 'temperature'"),
        ("gan", ("--guidance-scale", "2"), "without 'guidance_scale'"),
    ],
)
def test_sample_gan_rejects_options_and_writes_nothing(capsys, runs, tmp_path, name, words, message):
    assert message in assert_rejected(capsys, "sample", runs / name, *words, "--out", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "message"),
    [("a.jpg", ".png"), ("no/a.png", "there is no folder"), (".", ".png"), (None, "--out FILE.png")],
)
def test_sample_gan_rejects_bad_out(capsys, runs, tmp_path, out, message):
    words = () if out is None else ("--out", tmp_path / out)
    assert message in assert_rejected(capsys, "sample", runs / "gan", "-n", 4, *words)
    assert not list(tmp_path.iterdir())


def test_sample_gan_without_out_fails_early(capsys, runs, monkeypatch):
    monkeypatch.setattr(ts.api, "sample", lambda *_, **__: pytest.fail("drawn for nothing"))
    assert "--out FILE.png" in assert_rejected(capsys, "sample", runs / "gan")


def test_sample_gan_reports_full_disk(capsys, runs, tmp_path):
    (tmp_path / "a.png").symlink_to("/dev/full")
    assert "cannot write" in assert_rejected(
        capsys, "sample", runs / "gan", "-n", 4, "--out", tmp_path / "a.png"
    )


BATCH = ("--variant", "dcgan_mnist")  # whose discriminator has batch norm


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dcgan/smoke", *BATCH, "--loss", "wgan_gp"), "discriminator_norm layer, spectral or none"),
        (
            ("cgan/smoke", "--variant", "cgan", "--loss", "wgan_gp"),
            "discriminator_norm layer, spectral or none",
        ),
        (("dcgan", "--loss", "hing"), "did you mean hinge"),
        (("dcgan", "--discriminator-norm", "bach"), "did you mean batch"),
        (("dcgan/smoke", "--base-channels", "0"), "base_channels must be at least 1, not 0"),
        (("gan/smoke", "--eval-samples", "2"), "more of them are needed"),
        (("gan/smoke", "--discriminator-steps", "0"), "discriminator_steps must be at least 1"),
        (("gan/smoke", "--discriminator-lr", "0"), "lr must be a positive number"),
        (("gan/smoke", "--gp-weight", "-1", "--loss", "wgan_gp"), "gp_weight must be"),
        (("gan/smoke", "--data", "moons"), "moons"),
    ],
)
def test_train_gan_rejects_recipe_and_leaves_nothing(capsys, tmp_path, words, message):
    assert message in assert_rejected(capsys, "train", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_eval_cgan_rejects_other_classes(capsys, runs, tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("L", (8, 8), 20 * i).save(tmp_path / "photos" / name / f"{i}.png")
    line = assert_rejected(capsys, "eval", runs / "cgan", "--data", tmp_path / "photos")
    assert "cats, dogs" in line


@pytest.mark.parametrize("name", ["gan", "dcgan", "cgan"])
def test_show_gan(capsys, name):
    code, out, _ = run_cli(capsys, "show", name)
    assert (code, "smoke" in out) == (0, True)


def test_verify_gan(capsys):
    code, out, _ = run_cli(capsys, "verify", "gan")
    assert (code, "FAIL" in out) == (0, False)
