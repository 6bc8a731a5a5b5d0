"""Truncation, films, sheets of mixed styles and projection, in Python and as typed."""

import pytest
import torch
from PIL import Image

import torchstone as ts
from torchstone.cli.main import main
from torchstone.errors import BadInput
from torchstone.plots.sample_grid import symmetric_range
from torchstone.systems.generative.stylegan import Generator
from torchstone.tasks.gan import styles as use
from torchstone.tasks.gan.inference import sample_images

PICTURE = symmetric_range({"size": 8, "channels": 3, "ink": False, "box": None, "native": 8})
METADATA = {"variant": "stylegan2_tiny", "picture": PICTURE, "classes": ["0", "1"]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = Generator(8, 3, 6, 6, 2, channel_base=64, channel_max=8)
    made.mapping.average.normal_()
    return made


def test_samples_are_those_of_evaluation_and_obey_the_seed(model):
    images = torch.stack(use.sample(model, METADATA, num_samples=5, seed=3))
    assert torch.equal(images, sample_images(model, 5, PICTURE, seed=3))
    assert not torch.equal(images, torch.stack(use.sample(model, METADATA, num_samples=5, seed=4)))


def test_truncation_draws_styles_to_their_mean(model):
    full = use.draw_styles(model, METADATA, 4, 0)
    for psi in (0.0, 0.25, 0.7):
        expected = model.mapping.average + psi * (full - model.mapping.average)
        assert torch.allclose(use.draw_styles(model, METADATA, 4, 0, truncation=psi), expected, atol=1e-6)
    images = use.sample(model, METADATA, num_samples=3, truncation=0.0)
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("psi", [-0.1, 1.1, float("nan")])
def test_truncation_out_of_range_is_one_line(model, psi):
    with pytest.raises(BadInput, match=r"truncation must be from 0 \(all images alike\) to 1"):
        use.sample(model, METADATA, truncation=psi)


def test_mixed_sheet_has_the_layers_of_the_column(model):
    styles = use.draw_styles(model, METADATA, 5, 0)
    sheet, columns = use.mixed_sheet(styles, slice(1, 3))
    assert columns == 4
    assert len(sheet) == 3 + 2 * 4
    rows = torch.cat([styles[:1], sheet]).view(3, 4, model.num_styles, 6)  # the first cell is empty
    donors, bases = styles[:3], styles[3:]
    assert torch.equal(rows[0, 1:], donors)
    for i, base in enumerate(bases, 1):
        assert torch.equal(rows[i, 0], base)
        for j, donor in enumerate(donors, 1):
            assert torch.equal(rows[i, j, 1:3], donor[1:3])
            assert torch.equal(rows[i, j, [0, 3]], base[[0, 3]])


@pytest.mark.parametrize("text", ["", "a-b", "3-1", "0-9", "-1", "1-2-3", "1.5"])
def test_layers_that_are_none_are_one_line(text):
    with pytest.raises(BadInput, match=r"layers from 0 \(coarse\) to 3 \(fine\)"):
        use.parse_layers(text, 4)


def test_film_passes_the_samples_and_returns(model, tmp_path):
    styles = use.draw_styles(model, METADATA, 3, 0)
    path = use.film_path(styles)
    assert len(path) == 3 * use.FRAMES_BETWEEN
    assert torch.equal(path[:: use.FRAMES_BETWEEN], styles)
    half = path[use.FRAMES_BETWEEN * 2 + use.FRAMES_BETWEEN // 2]
    assert torch.allclose(half, (styles[2] + styles[0]) / 2, atol=1e-6)
    (file,) = use.sample(model, METADATA, num_samples=3, out=tmp_path / "film.gif")
    with Image.open(file) as film:
        assert film.n_frames == len(path)
        assert film.size == (96, 96)


def test_a_conditional_generator_samples_its_label(model):
    conditional = Generator(8, 3, 6, 6, 2, 64, 8, num_classes=2)
    ones = use.sample(conditional, METADATA, num_samples=3, label="1")
    labels = torch.ones(3, dtype=torch.int64)
    assert torch.equal(torch.stack(ones), sample_images(conditional, 3, PICTURE, labels=labels))
    with pytest.raises(BadInput, match="no label '7'"):
        use.sample(conditional, METADATA, label="7")
    with pytest.raises(BadInput, match="takes no label"):
        use.sample(model, METADATA, label="1")


def test_projection_finds_an_image_of_the_generator(model, tmp_path):
    with torch.no_grad():  # so that ŵ is the mean of styles
        model.mapping.average.copy_(model.mapping(torch.randn(2000, 6)).mean(0))
    (image,) = use.sample(model, METADATA, num_samples=1, seed=5)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    (answer,) = use.predict(
        model, METADATA, [str(tmp_path / "a.png")], out=tmp_path / "sheet.png", projection_steps=100
    )
    print(answer["text"])
    assert answer["error_rms"] < 0.25 * answer["mean_error_rms"]
    with Image.open(answer["file"]) as sheet:
        assert sheet.height > sheet.width  # the image above its projection


def test_an_image_of_another_size_is_one_line(model, tmp_path):
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"a\.png is 9×8, but the generator makes 8×8: resize it"):
        use.predict(model, METADATA, [str(tmp_path / "a.png")])


@pytest.mark.sweep  # it trains a run
def test_as_typed(trained_run, tmp_path, capsys):
    run = str(trained_run("stylegan"))
    for words in (["--truncation", "0.7", "--seed", "3"], ["--mix-styles", "0-1", "-n", "4"]):
        assert main(["sample", run, *words, "--out", str(tmp_path / "a.png")]) == 0
        assert (tmp_path / "a.png").exists()
    assert main(["sample", run, "-n", "2", "--out", str(tmp_path / "a.gif")]) == 0
    capsys.readouterr()
    assert main(["sample", run, "--truncation", "1.5", "--out", str(tmp_path / "b.png")]) == 2
    assert capsys.readouterr().err.strip().endswith("not 1.5")
    assert not (tmp_path / "b.png").exists()
    Image.new("L", (30, 30)).save(tmp_path / "large.png")
    assert main(["predict", run, str(tmp_path / "large.png")]) == 2
    assert "30×30, but the generator makes 8×8" in capsys.readouterr().err


def test_published_weights_as_typed(model, tmp_path, monkeypatch, capsys):
    from functools import partial

    from hub.stylegan_files import nvidia_state, write_nvidia_pickle

    from torchstone.systems import Variant
    from torchstone.systems.generative import stylegan

    make = partial(Generator, 8, 3, 6, 6, 2, 64, 8)
    monkeypatch.setitem(stylegan.VARIANTS, "stylegan2_ffhq", Variant(make, (6,)))
    write_nvidia_pickle(tmp_path / "ffhq.pkl", nvidia_state(model), monkeypatch)
    file = str(tmp_path / "ffhq.pkl")
    words = ["sample", "stylegan2_ffhq", "--weights", file, "-n", "4", "--truncation", "0.7"]
    assert main([*words, "--out", str(tmp_path / "a.png")]) == 0
    images = ts.sample("stylegan2_ffhq", weights=file, num_samples=4, truncation=0.7)
    assert all(map(torch.equal, images, use.sample(model, METADATA, num_samples=4, truncation=0.7)))
    capsys.readouterr()
    assert main(words) == 2
    assert "--out FILE.png" in capsys.readouterr().err
