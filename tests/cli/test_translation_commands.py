"""Translation of pictures as a new user types it: a folder of two domains, a run, a picture, and errors."""

import shutil

import pytest
from cli_helpers import assert_rejected, run_cli
from PIL import Image, ImageDraw

import torchstone as ts


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """Discs, white on black, and black on white of another size and mode."""
    folder = tmp_path_factory.mktemp("domains")
    for domain, mode, side, (paper, ink) in (("a", "RGB", 24, ("black", "white")), ("b", "L", 40, (255, 0))):
        (folder / domain).mkdir()
        for i in range(8):
            image = Image.new(mode, (side, side + 2 * i), paper)
            ImageDraw.Draw(image).ellipse((side // 4, side // 4, side // 2 + i, side // 2 + i), fill=ink)
            image.save(folder / domain / f"disc{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(domains, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cyclegan"
    ts.train("cyclegan/smoke", data=str(domains), steps=3, out=folder, quiet=True)
    return folder


def test_a_picture_is_translated_both_ways(run, domains, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(domains / "a" / "disc3.png", "mine.png")
    code, out, _ = run_cli(capsys, "predict", run, "mine.png", "--to", "b")
    assert (code, out) == (0, "mine.png: translated to b\npicture: mine-b.png\n")
    code, out, _ = run_cli(capsys, "predict", run, "mine-b.png", "--to", "a", "--out", "back.png")
    assert (code, out) == (0, "mine-b.png: translated to a\npicture: back.png\n")
    assert Image.open("back.png").size == (16, 16)
    assert Image.open("back.png").mode == "RGB"
    (answer,) = ts.predict(run, "mine.png", to="b")
    assert answer == {"input": "mine.png", "domain": "b", "file": "mine-b.png"}


def test_other_pictures_are_measured(run, domains, capsys):
    code, out, err = run_cli(capsys, "eval", run)
    assert code == 0
    assert "partner_gain" in out
    assert "test split" in out + err


def test_what_cannot_be_is_one_line(run, domains, tmp_path, capsys):
    picture = domains / "a" / "disc0.png"
    assert "no domain 'c': known: b, a" in assert_rejected(capsys, "predict", run, picture, "--to", "c")
    assert "does not exist" in assert_rejected(capsys, "predict", run, tmp_path / "no.png", "--to", "b")
    assert "there is no folder" in assert_rejected(
        capsys, "predict", run, picture, "--to", "b", "--out", tmp_path / "no" / "x.png"
    )
    (tmp_path / "half" / "a").mkdir(parents=True)
    shutil.copy(picture, tmp_path / "half" / "a")
    out = tmp_path / "run"
    error = assert_rejected(capsys, "train", "cyclegan", "--data", tmp_path / "half", "--out", out)
    assert "a holds 1 picture: at least 3 are needed" in error
    for i in range(3):
        shutil.copy(picture, tmp_path / "half" / "a" / f"{i}.png")
    error = assert_rejected(capsys, "train", "cyclegan", "--data", tmp_path / "half", "--out", out)
    assert "b does not exist: give a folder with a/ and b/" in error
    shutil.copytree(tmp_path / "half" / "a", tmp_path / "half" / "b")
    for file in (tmp_path / "half" / "b").iterdir():
        file.rename(file.with_name(f"other-{file.name}"))
    error = assert_rejected(capsys, "train", "pix2pix", "--data", tmp_path / "half", "--out", out)
    assert "no pairs to train with: give each picture in a/ one of the same name in b/" in error
    assert not out.exists()
