"""Curves: the numbers of a comparison are right, and the pictures are drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from torchstone.errors import BadInput
from torchstone.parts.metrics.legend import legend as meaning_of
from torchstone.plots import canvas, compare_runs, curves


def picture(file):
    """The picture as an array, decoded whole; it must show something."""
    with Image.open(file) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"), dtype=float)
    print(f"{file.name}: {pixels.shape[1]}×{pixels.shape[0]}, variance {pixels.var():.1f}")
    assert pixels.var() > 1
    assert pixels.shape[1] <= 1600
    return pixels


def make_run(folder, seed=0, every=10, system="lenet5", shift=0.0, rate=1e-3, result=None):
    folder.mkdir()
    rows = []
    for step in range(1, 101):
        rows.append(
            {"step": step, "split": "train", "time": step * 0.5, "rate": 2.0}
            | {"loss": 3 / step, "accuracy": 1 - 1 / step, "lr": rate}
            | {"gradient/fc1": 1 / step, "gradient/fc2": 0.1 / step}
        )
        if step % every == 0:
            # The best accuracy is not the last: it falls off after step 60.
            accuracy = shift + (step if step <= 60 else 120 - step) / 100
            rows.append({"step": step, "split": "val", "time": step * 0.5})
            rows[-1] |= {"loss": 1 - accuracy, "accuracy": accuracy}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"system": system, "recipe": "digits", "fields": {"seed": seed, "rate": rate}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    if result:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def drawn(monkeypatch):
    """Keeps every figure that is saved, to be asked what is on it."""
    figures, save = [], canvas.save
    for module in (compare_runs, curves):
        monkeypatch.setattr(module, "save", lambda figure, file: (figures.append(figure), save(figure, file)))
    return figures


def test_read_metrics_skips_truncated_last_line(tmp_path):
    run = make_run(tmp_path / "run")
    whole = curves.read_metrics(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "split": "train", "lo')
    read = curves.read_metrics(run)
    print(f"{len(whole)} rows, {len(read)} after a cut line")
    assert len(read) == 110
    assert read == whole


def test_read_metrics_refuses_other_folders(tmp_path):
    with pytest.raises(BadInput) as caught:
        compare_runs.compare([make_run(tmp_path / "run"), tmp_path / "photos"])
    print(caught.value)
    assert "photos" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_draw_curves_panels(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    result = {"metrics": {"test/accuracy": 0.5625}}
    curves.draw_curves(make_run(tmp_path / "run", result=result), tmp_path / "deep" / "curves.png")
    picture(tmp_path / "deep" / "curves.png")
    axes = {each.get_title(loc="left"): each for each in figures[0].axes}
    print(list(axes), figures[0].get_suptitle())
    assert list(axes) == ["loss", "accuracy", "gradient/", "lr", "steps_per_second"]
    assert axes["loss"].get_yscale() == "log"
    assert axes["gradient/"].get_yscale() == "log"
    assert axes["accuracy"].get_yscale() == "linear"
    words = [text.get_text() for text in axes["accuracy"].get_legend().get_texts()]
    assert words == ["train", "val", "test 0.5625"]
    assert [t.get_text() for t in axes["gradient/"].get_legend().get_texts()] == ["fc1", "fc2"]
    assert "lenet5/digits" in figures[0].get_suptitle()
    dashed = [line for line in axes["accuracy"].lines if line.get_linestyle() == "--"]
    assert list(dashed[0].get_ydata()) == [0.5625, 0.5625]
    val = next(line for line in axes["accuracy"].lines if line.get_label() == "val")
    assert list(val.get_xdata()) == list(range(10, 101, 10))
    assert val.get_marker() == "o"


def test_curves_say_what_each_metric_means(tmp_path, monkeypatch):
    """Beside the curve: term, unit, which way is better, chance level."""
    figures = drawn(monkeypatch)
    run = make_run(tmp_path / "run")
    curves.draw_curves(run, tmp_path / "curves.png")
    compare_runs.compare([run, run], tmp_path / "compared.png")
    for figure in figures:
        labels = {
            each.get_title(loc="left"): " ".join(each.get_ylabel().split())
            for each in figure.axes
            if each.get_title(loc="left")
        }
        print(labels)
        assert labels["accuracy"] == "accuracy, fraction that is right; higher is better; chance 1/classes"
        assert "lower is better" in labels["loss"]
    assert all(axes.get_ylabel() for axes in figures[0].axes)
    boxes = [axes.yaxis.label.get_window_extent() for axes in figures[0].axes]
    print([round(box.height) for box in boxes])
    assert all(
        box.height <= axes.get_window_extent().height
        for box, axes in zip(boxes, figures[0].axes, strict=True)
    )


def test_curves_have_the_chance_level_of_their_data(tmp_path, monkeypatch):
    """In figures, of the run's own classes; runs of other data have one of their own."""
    figures = drawn(monkeypatch)
    runs = [make_run(tmp_path / name) for name in ("three", "five")]
    for run, classes in zip(runs, (3, 5), strict=True):
        content = json.loads((run / "recipe.json").read_text())
        content["data"] = [{"name": str(classes), "unit": "images", "splits": {}}]
        (run / "recipe.json").write_text(json.dumps(content))
        (run / "result.json").write_text(json.dumps({"classes": classes}))
        curves.draw_curves(run, tmp_path / "curves.png")
    compare_runs.compare(runs, tmp_path / "compared.png")
    said = [
        " ".join(axes.get_ylabel().split()).rpartition("; ")[2]
        for figure in figures
        for axes in figure.axes
        if axes.get_title(loc="left").startswith("accuracy")
    ]
    print(said)
    assert said == ["chance 1/3 = 0.333", "chance 1/5 = 0.2"] * 2
    assert meaning_of("loss", "lenet5").line(3).endswith("chance ln(3) = 1.1")
    assert meaning_of("loss", "lenet5").line().endswith("chance ln(classes)")
    assert meaning_of("return").line(3) == meaning_of("return").line()


def test_draw_curves_legends_cover_no_data(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    runs = [make_run(tmp_path / f"run{i}", rate=float(i)) for i in range(1, 10)]
    curves.draw_curves(runs[0], tmp_path / "curves.png")
    compare_runs.compare(runs, tmp_path / "compare.png")
    legends = 0
    for figure in figures:
        for legend in [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]:
            box = legend.get_window_extent()
            legends += 1
            inner = legend not in figure.legends  # a panel's own legend is part of its tight box
            for axes in figure.axes:
                data = axes.patch.get_window_extent() if inner else axes.get_tightbbox()
                assert not box.overlaps(data)
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.width + 1
    print(f"{legends} legends, all beside the data")
    assert legends == 4


def test_draw_curves_empty_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train", "time": 0.1, "loss": 1.0}\n')
    curves.draw_curves(tmp_path, tmp_path / "curves.png")
    picture(tmp_path / "curves.png")


def test_compare_rows(tmp_path):
    result = {"metrics": {"test/accuracy": 0.25}, "seconds": 7.5, "parameters": 61706}
    runs = [make_run(tmp_path / "a", seed=3, result=result), make_run(tmp_path / "b", shift=0.125)]
    table = compare_runs.compare(runs)
    print(*table, sep="\n")
    assert table[0] == {
        "run": "a",
        "system": "lenet5",
        "recipe": "digits",
        "seed": 3,
        "steps": 100,
        "seconds": 7.5,
        "parameters": 61706,
        "data": None,
        "val/loss": pytest.approx(0.8),
        "val/accuracy": pytest.approx(0.2),
        "test/accuracy": 0.25,
        "best/loss": pytest.approx(0.4),
        "best/accuracy": pytest.approx(0.6),
    }
    assert table[1]["seconds"] == 50.0
    assert table[1]["parameters"] is None
    assert table[1]["best/accuracy"] == pytest.approx(0.725)


def test_compare_band_from_three_seeds(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    # Evaluated at different steps, as runs on a clock are.
    seeds = [make_run(tmp_path / f"s{i}", i, every, shift=i / 10) for i, every in enumerate((10, 20, 5))]
    others = [make_run(tmp_path / f"r{i}", i, system="resnet") for i in range(2)]
    odd = make_run(tmp_path / "odd", 9, rate=0.5)  # another rate: not a repetition
    compare_runs.compare([*seeds, *others, odd], tmp_path / "compare.png")
    picture(tmp_path / "compare.png")
    for axes in figures[0].axes:
        assert len(axes.collections) == 1
        assert len(axes.lines) == 4
    axes = next(a for a in figures[0].axes if a.get_title(loc="left") == "accuracy")
    mean = dict(zip(*axes.lines[0].get_data(), strict=True))
    band = axes.collections[0].get_paths()[0].vertices
    at = band[band[:, 0] == 40, 1]
    print(f"mean at 40: {mean[40]}, band {at.min()} to {at.max()}")
    assert min(mean) == 20
    assert max(mean) == 100
    assert mean[40] == pytest.approx(0.5)
    assert at.min() == pytest.approx(0.4)
    assert at.max() == pytest.approx(0.6)
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert words == ["lenet5/digits, 3 seeds: interquartile mean, 95 %", "r0", "r1", "odd"]


def test_compare_one_evaluation_of_three_seeds_is_seen(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    seeds = [make_run(tmp_path / f"s{i}", i, 100, shift=i / 10) for i in range(3)]
    compare_runs.compare(seeds, tmp_path / "compare.png")
    for axes in figures[0].axes:
        (line,), (band,) = axes.lines, axes.collections
        print(f"{axes.get_title(loc='left')}: {len(line.get_xdata())} points, marker {line.get_marker()}")
        assert len(line.get_xdata()) == 1
        assert line.get_marker() == "o"
        assert band.get_linewidth()[0] > 0


def test_compare_numbered_metrics_are_one_panel(tmp_path, monkeypatch):
    figures, folders = drawn(monkeypatch), []
    for number, fade in enumerate((0.5, 0.9)):
        folders.append(make_run(tmp_path / f"run{number}", number, rate=fade))
        rows = [json.loads(line) for line in (folders[-1] / "metrics.jsonl").read_text().split("\n")[:-1]]
        for row in rows:
            if row["split"] == "val":
                del row["accuracy"]
                row |= {f"gradient/{k}": fade**k * row["step"] / 100 for k in (1, 20, 3)}
        lines = [json.dumps(row) + "\n" for row in rows]
        (folders[-1] / "metrics.jsonl").write_text("".join(lines))
    compare_runs.compare(folders, tmp_path / "compare.png")
    picture(tmp_path / "compare.png")
    titles = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert titles == ["loss", "gradient/"]
    axes = figures[0].axes[-1]
    assert axes.get_yscale() == "log"
    for line, fade in zip(axes.lines, (0.5, 0.9), strict=True):
        x, y = line.get_data()
        assert list(x) == [1, 3, 20]
        assert list(y) == pytest.approx([fade, fade**3, fade**20])  # the last row's


def test_save_says_once_which_signs_are_boxes(tmp_path, capsys, recwarn):
    figure = canvas.canvas(2, 2)
    axes = figure.add_subplot()
    for at, text in enumerate(("猫", "犬猫", "a\x04b", "a\tb", "$x$", "two\nlines")):
        axes.text(0, at / 6, canvas.plain(text))
    canvas.save(figure, tmp_path / "names.png")
    said = capsys.readouterr().err
    print(said)
    assert said == "names.png: the font has no 猫 犬, which are boxes in the picture\n"
    assert not [each for each in recwarn if "Glyph" in str(each.message)]
    assert canvas.plain("a\x04b") == "a\N{REPLACEMENT CHARACTER}b"


def test_smooth_keeps_slope_reduces_noise():
    line = np.arange(200.0)
    inner = canvas.smooth(line, 20)[10:-10]
    noise = np.random.default_rng(0).normal(size=2000)
    ratio = noise.std() / canvas.smooth(noise, 100).std()
    print(f"largest lag {abs(inner - line[10:-10]).max()}, noise divided by {ratio:.1f}")
    assert np.allclose(inner, line[10:-10])
    assert ratio > 5
    assert np.allclose(canvas.smooth(noise, 0), noise)


def test_compare_interquartile_mean_over_env_steps(tmp_path, monkeypatch):
    """One seed that failed is left out of the line, and is in the band."""
    figures, folders = drawn(monkeypatch), []
    for seed, shift in enumerate((0.0, 0.1, 0.2, 0.3, -5.0)):
        folders.append(make_run(tmp_path / f"s{seed}", seed, shift=shift))
        file = folders[-1] / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            if row["split"] == "train":
                row["env_steps"] = 256.0 * row["step"]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    compare_runs.compare(folders, tmp_path / "compare.png")
    picture(tmp_path / "compare.png")
    axes = next(a for a in figures[0].axes if a.get_title(loc="left") == "accuracy")
    assert axes.get_xlabel() == compare_runs.FRAMES
    line = dict(zip(*axes.lines[0].get_data(), strict=True))
    band = axes.collections[0].get_paths()[0].vertices
    at = band[band[:, 0] == 40 * 256, 1]
    print(line, at.min(), at.max())
    assert line[40 * 256] == pytest.approx(0.4 + 0.1)
    assert at.min() < 0.4 - 1
    assert 0.4 + 0.2 < at.max() <= 0.4 + 0.3


def test_compare_different_data_have_axes_of_their_own(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    runs = [make_run(tmp_path / name, seed=i) for i, name in enumerate("abc")]
    for run, digest in zip(runs, ("11", "11", "22"), strict=True):
        recipe = json.loads((run / "recipe.json").read_text())
        splits = {"train": {"count": 1200, "digest": digest}, "val": {"count": 100, "digest": digest}}
        source = {"name": f"./set{digest}", "unit": "images", "about": "", "splits": splits}
        (run / "recipe.json").write_text(json.dumps(recipe | {"data": [source]}))
    rows = compare_runs.compare(runs, tmp_path / "c.png")
    picture(tmp_path / "c.png")
    panels = [(axes.get_title(loc="left"), len(axes.lines)) for axes in figures[0].axes]
    print([row["data"] for row in rows], panels)
    assert rows[0]["data"] == "./set11 (1,200 / 100 images)"
    titles = [
        f"{metric} on ./set{n} (1,200 / 100 images)" for n in ("11", "22") for metric in ("loss", "accuracy")
    ]
    assert [count for _, count in panels] == [2, 2, 1, 1]
    assert [title.split(" on ")[1][:7] for title, _ in panels] == [t.split(" on ")[1][:7] for t in titles]
    compare_runs.compare(runs[:2], tmp_path / "d.png")
    assert [axes.get_title(loc="left") for axes in figures[1].axes] == ["loss", "accuracy"]


def test_curve_over_env_steps_is_read_at_the_steps_of_the_environment(tmp_path):
    """8 steps an update after 100 at random, which the training rows say."""
    rows = [{"step": step, "split": "train", "env_steps": 100 + 8 * step} for step in range(5, 25, 5)]
    rows += [{"step": step, "split": "val", "return": -10.0 * step} for step in (0, 10, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare_runs.curve_over_env_steps(tmp_path, "return")
    assert found == [(0.0, 0.0), (180.0, -100.0), (260.0, -200.0)]
    with pytest.raises(BadInput, match="no validation of accuracy over steps"):
        compare_runs.curve_over_env_steps(tmp_path, "accuracy")


@pytest.mark.parametrize(("steps", "scale"), [(20, "linear"), (200, "symlog")])
def test_compare_has_a_logarithmic_axis_where_one_run_took_many_more_env_steps(
    tmp_path, monkeypatch, steps, scale
):
    figures, folders = drawn(monkeypatch), []
    for name, last in (("few", 20), ("many", steps)):
        folders.append(make_run(tmp_path / name))
        rows = [{"step": s, "split": "train", "env_steps": 10 * s} for s in range(1, last + 1)]
        rows += [{"step": s, "split": "val", "return": -1.0 * s} for s in (0, last // 2, last)]
        (folders[-1] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    compare_runs.compare(folders, tmp_path / "compare.png")
    picture(tmp_path / "compare.png")
    (axes,) = figures[0].axes
    assert axes.get_xscale() == scale
    assert [line.get_xdata()[-1] for line in axes.lines] == [200, 10 * steps]
