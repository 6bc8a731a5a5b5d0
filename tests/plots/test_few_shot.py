"""The curve of few-shot accuracy: what is drawn is what was measured."""

import matplotlib.figure
import pytest
from matplotlib.container import ErrorbarContainer

from torchstone.plots import few_shot


@pytest.mark.parametrize("kind", ["episodes", "text"])
def test_draw_few_shot_draws_means_with_their_deviation(kind, tmp_path, monkeypatch):
    figures: list[matplotlib.figure.Figure] = []
    keep = few_shot.save
    monkeypatch.setattr(few_shot, "save", lambda figure, file: (figures.append(figure), keep(figure, file)))
    metrics = {"chance": 0.125}
    names = ("accuracy",) if kind == "episodes" else tuple(few_shot.CURVES)
    for index, name in enumerate(names):
        for k, mean in ((0, 0.1), (1, 0.4), (16, 0.9)):
            metrics |= {f"{name}/{k}": mean + index / 100, f"{name}_std/{k}": 0.02 * (k + 1) ** 0.5}
    if kind == "episodes":
        metrics |= {"optimal_accuracy/0": 0.125, "optimal_accuracy/1": 0.34, "optimal_accuracy/16": 0.99}
    else:
        metrics["majority_accuracy"] = 0.55
    file = tmp_path / "curve.png"
    few_shot.draw_few_shot(metrics, (0, 1, 16), file, "gpt on reviews")
    assert file.read_bytes()[:4] == b"\x89PNG"
    (axes,) = figures[0].axes
    bars = [each for each in axes.containers if isinstance(each, ErrorbarContainer)]
    assert len(bars) == len(names)
    for index, bar in enumerate(bars):
        line, _, (segments,) = bar.lines
        assert line.get_ydata() == pytest.approx([each + index / 100 for each in (0.1, 0.4, 0.9)])
        heights = [abs(end[1] - start[1]) for start, end in segments.get_segments()]
        assert heights == pytest.approx([0.04 * (k + 1) ** 0.5 for k in (0, 1, 16)]), "one to either side"
    labels = axes.get_legend_handles_labels()[1]
    assert "chance 0.125" in labels
    assert ("best possible" if kind == "episodes" else "most frequent label") in labels
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "16"]
