"""Plots of a classifier: the right examples in the right order, and the model unchanged."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchstone.errors import BadInput
from torchstone.interpret import feature_maps
from torchstone.plots import classification
from torchstone.plots.canvas import DPI, percent

DIGITS = [str(i) for i in range(10)]


def picture(file):
    """The picture as an array, decoded whole; it must show something."""
    with Image.open(file) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"), dtype=float)
    print(f"{file.name}: {pixels.shape[1]}×{pixels.shape[0]}, variance {pixels.var():.1f}")
    assert pixels.var() > 1
    assert pixels.shape[1] <= 1600
    return pixels


def drawn(monkeypatch):
    """Keeps every figure that is saved, to be asked what is on it."""
    figures, save = [], classification.save
    for module in (feature_maps, classification):
        monkeypatch.setattr(module, "save", lambda figure, file: (figures.append(figure), save(figure, file)))
    return figures


def answers(n=200, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    # Coarse, so that equal confidences occur and their order is judged too.
    scores = (torch.randn(n, classes, generator=generator) * 2).round()
    scores[torch.arange(n), labels] += 2
    images = torch.randint(256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return images, labels, scores.softmax(1)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.drop, self.flat = nn.Dropout(0.5), nn.Flatten()
        self.head = nn.Linear(320, 10)

    def forward(self, images):
        return self.head(self.flat(self.drop(self.body(images))))


@pytest.mark.parametrize("max_count", [5, 1000])
def test_worst_mistakes_equal_slow_sort(max_count):
    _, labels, probabilities = answers()
    rows = []
    for i, (label, row) in enumerate(zip(labels.tolist(), probabilities.tolist(), strict=True)):
        said = row.index(max(row))
        if said != label:
            rows.append((-row[said], i))
    slow = [i for _, i in sorted(rows)][:max_count]
    ours = classification.worst_mistakes(labels, probabilities, max_count).tolist()
    print(f"{len(rows)} mistakes; ours {ours[:5]}, slow sort {slow[:5]}")
    assert len(rows) > 20
    assert ours == slow


def test_worst_mistakes_with_given_predictions():
    probabilities = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9], [0.75, 0.25]])
    labels, said = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 0, 1, 0])
    ours = classification.worst_mistakes(labels, probabilities, 9, said).tolist()
    print(ours)
    assert ours == [2, 3, 0]


def test_plot_mistakes_in_order(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    images, labels, probabilities = answers()
    said = probabilities.argmax(1)
    classification.plot_mistakes(
        images, labels, said, probabilities, DIGITS, tmp_path / "m.png", max_shown=12
    )
    picture(tmp_path / "m.png")
    expected = []
    for i in classification.worst_mistakes(labels, probabilities, 12).tolist():
        expected.append(f"{labels[i]} → {said[i]} ({percent(float(probabilities[i, said[i]]))})")
    texts = [text.get_text() for text in figures[0].axes[0].texts]
    print(figures[0].get_suptitle(), texts)
    assert texts == expected
    places = [image.get_extent() for image in figures[0].axes[0].images]
    assert len(places) == 12
    assert all(right - left == pytest.approx(1.35) for left, right, _, _ in places)
    assert [p[0] < q[0] for p, q in itertools.pairwise(places)] == [True, True, True, False] * 2 + [True] * 3
    first = classification.worst_mistakes(labels, probabilities, 1)[0]
    shown = np.asarray(figures[0].axes[0].images[0].get_array())
    assert np.allclose(shown * 255, images[first, 0].numpy(), atol=0.01)
    wrong = int((said != labels).sum())
    assert f"{wrong} mistakes in 200" in figures[0].get_suptitle()
    assert "12 most confident" in figures[0].get_suptitle()


def test_plot_mistakes_least_confident_if_none(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    images, _, probabilities = answers()
    said = probabilities.argmax(1)
    classification.plot_mistakes(images, said, said, probabilities, DIGITS, tmp_path / "m.png", max_shown=4)
    picture(tmp_path / "m.png")
    title, texts = figures[0].get_suptitle(), [text.get_text() for text in figures[0].axes[0].texts]
    print(title, texts)
    assert "no mistake in 200" in title
    assert "least confident" in title
    least = sorted(probabilities.max(1).values.tolist())[:4]
    assert [t.split()[1] for t in texts] == [f"({percent(p)})" for p in least]


def test_plot_confusion_matrix_rounds_nothing_to_all_or_none(tmp_path, monkeypatch):
    """One mistake among 100,000 is no `100.00 %`, neither in the title nor in the recall."""
    figures = drawn(monkeypatch)
    classification.plot_confusion_matrix(
        torch.tensor([[99_999, 1], [0, 100_000]]), ["a", "b"], tmp_path / "c.png"
    )
    figure = figures[0]
    print(figure.get_suptitle(), [t.get_text() for t in figure.axes[1].texts])
    assert figure.get_suptitle() == "accuracy 99.99 %  (199,999 of 200,000)"
    assert [t.get_text() for t in figure.axes[1].texts] == ["99.9 %", "100.0 %"]


@pytest.mark.parametrize("n", [2, 10, 20, 100])
def test_plot_confusion_matrix_annotations(tmp_path, monkeypatch, n):
    figures = drawn(monkeypatch)
    matrix = torch.eye(n, dtype=torch.long) * 9
    matrix[0, 1], matrix[1] = 3, 0  # class 0: 9 of 12; class 1 never occurs
    names = [f"$_class {i}$ of a long name" for i in range(n)]
    classification.plot_confusion_matrix(matrix, names, tmp_path / "c.png")
    picture(tmp_path / "c.png")
    figure, right, total = figures[0], 9 * (n - 1), 9 * (n - 1) + 3
    print(figure.get_suptitle())
    assert f"{100 * right / total:.2f} %  ({right} of {total})" in figure.get_suptitle()
    grid, recall = figure.axes[:2]
    assert len(grid.texts) == (n if n <= 20 else 0)
    assert [bar.get_width() for bar in recall.patches][:2] == [0.75, 0]
    if n <= 20:
        assert [t.get_text() for t in recall.texts][:2] == ["75.0 %", "no examples"]
    boxes = [label.get_window_extent() for label in grid.get_yticklabels()]
    assert len(boxes) <= 25
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_save_draws_once_what_savefig_draws(tmp_path, monkeypatch):
    """A figure with a layout to be found: the same bytes, and matplotlib's `draw` is called once, not twice."""
    from matplotlib.figure import Figure

    draws, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: draws.append(self) or draw(self, renderer))
    matrix = torch.arange(9).view(3, 3)
    classification.plot_confusion_matrix(matrix, DIGITS[:3], tmp_path / "once.png")
    ours = len(draws)

    def savefig(figure, file):
        figure.savefig(file, dpi=DPI, facecolor="white", pil_kwargs={"compress_level": 1})

    monkeypatch.setattr(classification, "save", savefig)
    classification.plot_confusion_matrix(matrix, DIGITS[:3], tmp_path / "twice.png")
    print(ours, len(draws) - ours)
    assert (ours, len(draws) - ours) == (1, 2)
    assert (tmp_path / "once.png").read_bytes() == (tmp_path / "twice.png").read_bytes()


def test_plot_confusion_matrix_needs_all_names(tmp_path):
    with pytest.raises(BadInput, match="3 class names for a confusion matrix of 10"):
        classification.plot_confusion_matrix(
            torch.eye(10, dtype=torch.long), ["a", "b", "c"], tmp_path / "c.png"
        )


@pytest.mark.parametrize(
    ("shape", "image", "said"),
    [
        ((96, 3, 11, 11), None, "64 of 96 filters of 3×11×11, largest norms first"),
        ((6, 1, 5, 5), None, "6 filters of 1×5×5"),
        ((7, 16, 3, 3), None, "mean over the 16 inputs"),
        ((30, 784), (1, 28, 28), "30 filters of 1×28×28"),
        ((30, 12), (3, 1, 4), "30 filters of 3×1×4"),
    ],
)
def test_plot_filters_titles_and_scale(tmp_path, monkeypatch, shape, image, said):
    figures = drawn(monkeypatch)
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape) + 0.5)
    feature_maps.plot_filters(weight, tmp_path / "f.png", shape=image)
    picture(tmp_path / "f.png")
    print(figures[0].get_suptitle())
    assert said in figures[0].get_suptitle()
    shown = figures[0].axes[0].images[0]
    if (image or shape[1:])[0] != 3:
        low, high = shown.get_clim()
        assert low == -high
        assert len(figures[0].axes) == 2


def test_plot_filters_largest_first(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    weight = torch.arange(1.0, 101.0)[:, None, None, None].expand(100, 1, 2, 2)
    feature_maps.plot_filters(weight, tmp_path / "f.png")
    tiles = np.asarray(figures[0].axes[0].images[0].get_array())[36::80, 36::80].flatten()
    print(tiles[:3], "…", tiles[-1])
    assert tiles.tolist() == list(range(100, 36, -1))


def test_plot_filters_rejects_wrong_shape(tmp_path):
    for shape in (None, (1, 3, 3)):
        with pytest.raises(BadInput, match="10 inputs"):
            feature_maps.plot_filters(torch.ones(4, 10), tmp_path / "f.png", shape=shape)


def test_record_outputs_before_in_place_changes():
    torch.manual_seed(0)
    model, image = Small().train(), torch.randn(1, 1, 8, 8)
    heard = feature_maps._record_outputs(model, image)
    model.eval()  # as they were heard, whatever the mode before
    print([label for label, _ in heard])
    kinds = [label.split("\n")[-1] for label, _ in heard]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Linear"]
    with torch.no_grad():
        conv = model.body[0](image)
        normed = model.body[1](conv)
        assert torch.equal(heard[0][1], conv[0])
        assert torch.equal(heard[1][1], normed[0])
        assert normed.min() < 0
        assert torch.equal(heard[-1][1], model(image)[0])


def test_plot_feature_maps_leaves_model_unchanged(tmp_path):
    model = Small().train()
    model.body[1].eval()  # as when statistics are frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    feature_maps.plot_feature_maps(model, torch.randn(1, 1, 8, 8), tmp_path / "f.png")
    picture(tmp_path / "f.png")
    with pytest.raises(RuntimeError):
        feature_maps.plot_feature_maps(model, torch.randn(1, 3, 8, 8), tmp_path / "g.png")
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    print(f"{hooks} hooks left, {sum(modes.values())} of {len(modes)} modules in training mode")
    assert hooks == 0
    assert not modes.pop("body.1")
    assert all(modes.values())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_plot_feature_maps_evenly_spaced_layers(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    layers = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()) for _ in range(20)]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))
    feature_maps.plot_feature_maps(model, torch.randn(1, 3, 12, 8), tmp_path / "f.png", max_channels=3)
    picture(tmp_path / "f.png")
    print(figures[0].get_suptitle())
    assert "43 layers, 24 of them" in figures[0].get_suptitle()
    sheet = figures[0].axes[0]
    assert len(sheet.images) + len(sheet.lines) == 25
    words = [text.get_text() for text in sheet.texts]
    assert words[0].startswith("input")
    assert any(w.startswith("23\nLinear") for w in words)
    assert any("4×12×8  (first 3)" in word for word in words)


def test_percent_is_certain_only_if_it_is():
    shown = {share: percent(share) for share in (0.0, 1e-9, 0.1234, 0.9994, 0.99999, 1.0)}
    print(shown)
    assert list(shown.values()) == ["0.0%", "0.1%", "12.3%", "99.9%", "99.9%", "100.0%"]
    assert percent(0.999, 0) == "99%"
