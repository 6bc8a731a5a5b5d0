"""The three games as a new user types them: sheets, figures, and one line for each refusal."""

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
        short = {"steps": 20, "samples": 20, "quiet": True}
        ts.train(f"{name}/smoke", out=folder / name, intervals={"evaluate": 10}, **short)
    return folder


@pytest.mark.parametrize("name", ["gan", "dcgan", "cgan"])
def test_a_sheet_of_samples(capsys, runs, tmp_path, name):
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
    made = torch.stack(ts.sample(run, count=64))
    assert made.shape == (64, 1, 8, 8)
    assert made.dtype == torch.uint8
    large = made[9, 0].numpy().repeat(6, 0).repeat(6, 1)
    row, column = divmod(9, columns)
    top, left = row * 50 + 2, column * 50 + 2
    assert (sheets[0][top : top + 48, left : left + 48] == large).all()


@pytest.mark.parametrize("name", ["gan", "dcgan", "cgan"])
def test_the_run_folder_has_its_sheets_their_film_and_the_nearest_pictures(runs, name):
    pictures = {file.name for file in (runs / name / "pictures").iterdir()}
    assert {"samples.png", "samples.gif", "nearest.png", "curves.png"} <= pictures
    sheets = sorted(file.name for file in (runs / name / "samples").iterdir())
    assert sheets == ["000000.png", "000010.png", "000020.png"]
    last = (runs / name / "samples" / "000020.png").read_bytes()
    assert last == (runs / name / "pictures" / "samples.png").read_bytes()
    assert last != (runs / name / "samples" / "000000.png").read_bytes()
    rows = [json.loads(r) for r in (runs / name / "metrics.jsonl").read_text().splitlines()]
    looked = [row for row in rows if row["split"] == "val"]
    assert len(looked) == 3
    for row in looked:
        assert {"distance", "modes", "variety", "collapse"} <= set(row)


@pytest.mark.parametrize("name", ["gan", "cgan"])
def test_the_figures_again(capsys, runs, name):
    result = json.loads((runs / name / "result.json").read_text())["metrics"]
    again = json.loads(run_cli(capsys, "eval", runs / name, "--json")[1])
    for figure in ("distance", "precision", "recall", "variety", "modes", "confident"):
        assert again[figure] == pytest.approx(result[f"test/{figure}"], rel=1e-5), figure


def test_a_label_makes_every_picture_of_that_class(capsys, runs, tmp_path):
    run = runs / "cgan"
    code, out, _ = run_cli(capsys, "sample", run, "-n", 9, "--label", 3, "--out", tmp_path / "threes.png")
    assert code == 0
    with Image.open(out.strip()) as image:
        assert image.size == (3 * 50 + 2, 3 * 50 + 2)
    three, eight = (torch.stack(ts.sample(run, count=9, label=k)) for k in ("3", 8))
    assert not torch.equal(three, eight)
    in_turn = torch.stack(ts.sample(run, count=9))
    assert torch.equal(in_turn[3], three[3])
    assert torch.equal(in_turn[8], eight[8])


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("cgan", ("--label", "eleven"), "no label 'eleven'"),
        ("cgan", ("--label", "10"), "no label '10'"),
        ("dcgan", ("--label", "3"), "train cgan for that"),
        ("gan", ("-n", "0"), "-n"),
        ("gan", ("-n", "many"), "-n"),
        ("gan", ("--prompt", "seven"), "without 'prompt'"),
        ("gan", ("--temperature", "2"), "without 'temperature'"),
        ("gan", ("--guidance", "2"), "without 'guidance'"),
    ],
)
def test_what_cannot_be_sampled_is_refused_and_nothing_is_written(capsys, runs, tmp_path, name, words, said):
    assert said in assert_rejected(capsys, "sample", runs / name, *words, "--out", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("a.jpg", ".png"),
        ("no/a.png", "there is no folder"),
        (".", ".png"),
        (None, "--out FILE.png"),
    ],
)
def test_a_sheet_that_has_no_place_is_refused(capsys, runs, tmp_path, out, said):
    words = () if out is None else ("--out", tmp_path / out)
    assert said in assert_rejected(capsys, "sample", runs / "gan", "-n", 4, *words)
    assert not list(tmp_path.iterdir())


def test_that_a_place_is_missing_is_said_before_anything_is_drawn(capsys, runs, monkeypatch):
    monkeypatch.setattr(ts.api, "sample", lambda *_, **__: pytest.fail("drawn for nothing"))
    assert "--out FILE.png" in assert_rejected(capsys, "sample", runs / "gan")


def test_what_a_full_disk_does_not_take_is_said_in_a_line(capsys, runs, tmp_path):
    (tmp_path / "a.png").symlink_to("/dev/full")
    assert "cannot write" in assert_rejected(
        capsys, "sample", runs / "gan", "-n", 4, "--out", tmp_path / "a.png"
    )


BATCH = ("--variant", "dcgan_mnist")  # whose critic has batch norm


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dcgan/smoke", *BATCH, "--loss", "wgan_gp"), "critic_norm layer, spectral or none"),
        (
            ("cgan/smoke", "--variant", "cgan", "--loss", "wgan_gp"),
            "critic_norm layer, spectral or none",
        ),
        (("dcgan", "--loss", "hing"), "did you mean hinge"),
        (("dcgan", "--critic-norm", "bach"), "did you mean batch"),
        (("dcgan/smoke", "--width", "0"), "width must be at least 1, not"),
        (("gan/smoke", "--samples", "2"), "more of them are needed"),
        (("gan/smoke", "--critic-steps", "0"), "critic_steps must be at least 1"),
        (("gan/smoke", "--critic-lr", "0"), "lr must be a positive number"),
        (("gan/smoke", "--penalty", "-1", "--loss", "wgan_gp"), "penalty must be"),
        (("gan/smoke", "--data", "moons"), "moons"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(capsys, tmp_path, words, said):
    assert said in assert_rejected(capsys, "train", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_classes_than_the_generator_knows_are_refused(capsys, runs, tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("L", (8, 8), 20 * i).save(tmp_path / "photos" / name / f"{i}.png")
    line = assert_rejected(capsys, "eval", runs / "cgan", "--data", tmp_path / "photos")
    assert "cats, dogs" in line


@pytest.mark.parametrize("name", ["gan", "dcgan", "cgan"])
def test_show(capsys, name):
    code, out, _ = run_cli(capsys, "show", name)
    assert (code, "smoke" in out) == (0, True)


def test_verify(capsys):
    code, out, _ = run_cli(capsys, "verify", "gan")
    assert (code, "FAIL" in out) == (0, False)
