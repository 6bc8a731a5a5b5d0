"""Curves of a run, from the rows that the meter wrote."""

import math
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np

from torchstone.engine.meter import read_rows
from torchstone.errors import BadInput
from torchstone.files import parse_json
from torchstone.parts.metrics.legend import legend
from torchstone.plots.canvas import LEGEND, PALETTE, canvas, decades, frame, plain, save, smooth

TRAIN, VAL, TEST = "#0072B2", "#D55E00", "#007A5E"  # Okabe and Ito's palette, safe for color blindness
FIRST = ("loss", "accuracy", "error")
# The schedule and the speed: seen at a glance, so drawn small, at the foot.
SMALL = ("lr", "steps_per_second", "rate")  # `rate` is what earlier versions called the speed

Series = dict[str, dict[str, list[tuple[float, float]]]]  # metric -> split -> (step, value)


def read_metrics(run_folder: str | Path) -> list[dict]:
    """The rows of a run's `metrics.jsonl`; a last line that a crash cut off is left out.

    Raises:
        BadInput: the folder is not a run: it holds no `metrics.jsonl`.
    """
    file = Path(run_folder) / "metrics.jsonl"
    if not file.is_file():
        raise BadInput(f"{run_folder} is not a run: a run's folder holds a metrics.jsonl")
    return read_rows(file)


def draw_curves(run_folder: str | Path, file: str | Path) -> None:
    """Draws every metric of a run that has two points or more, over the steps.

    Train is drawn raw (thin) and as a centred moving mean, val with markers, the final test value
    as a dashed line. Metrics that share what stands before a `/` share a panel on a log scale.

    Raises:
        BadInput: the folder is not a run.
    """
    rows = read_metrics(run_folder)
    series, dropped = series_of(rows)
    system, result = read_json(run_folder, "recipe.json").get("system"), read_json(run_folder, "result.json")
    last, classes = final(rows, result), result.get("classes")
    panels: dict[str, list[str]] = defaultdict(list)
    for name, splits in series.items():
        if any(len(points) > 1 for points in splits.values()):
            panels[name.split("/")[0] + "/" if "/" in name else name].append(name)
    large = sorted((p for p in panels if p not in SMALL), key=rank)
    small = [p for p in SMALL if p in panels]

    columns = max(1, min(3, max(len(large), len(small))))
    heights = [3.0] * math.ceil(len(large) / columns) + [1.8] * math.ceil(len(small) / columns)
    figure = canvas(4.7 * columns + (1.2 if columns == 1 else 0), sum(heights or [2]) + 0.5)
    figure.suptitle(_title(run_folder), fontsize=12, fontweight="bold")
    if not heights:
        figure.text(0.5, 0.45, "fewer than two points: nothing to draw yet", ha="center", fontsize=10)
        return save(figure, file)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for index, panel in enumerate(large):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        if panel.endswith("/"):
            _draw_group(axes, panel, {name: series[name] for name in panels[panel]})
        else:
            _draw_metric(axes, panel, series[panel], last.get(f"test/{panel}"))
        label_with_legend(axes, panel, system, classes)
        lost = sum(dropped.get(name, 0) for name in panels[panel])
        axes.set_xlabel(f"step   ({lost} values not finite, not drawn)" if lost else "step", fontsize=8)
    for index, panel in enumerate(small):
        axes = figure.add_subplot(grid[len(heights) - 1, index % columns])
        name = "steps_per_second" if panel == "rate" else panel
        frame(axes, name)
        label_with_legend(axes, name, system, width=26)
        points = max(series[panel].values(), key=len)
        axes.plot(*zip(*points, strict=True), color="0.25", linewidth=1.2)
        low = min(value for _, value in points)
        axes.set_ylim(bottom=0) if low >= 0 else None
    save(figure, file)


def series_of(rows: list[dict]) -> tuple[Series, dict[str, int]]:
    """Finite values of every metric by split, and how many of each metric were not finite."""
    series: Series = defaultdict(lambda: defaultdict(list))
    dropped: dict[str, int] = defaultdict(int)
    for row in rows:
        for name, value in row.items():
            if name in ("step", "split", "time") or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                series[name][row["split"]].append((row["step"], value))
            else:
                dropped[name] += 1
    return series, dropped


def final(rows: list[dict], result: dict) -> dict[str, float]:
    """Last value of every val and test metric, as `val/loss`; the result's own word goes first."""
    last = {}
    for row in rows:
        if row["split"] in ("val", "test"):
            values = {k: v for k, v in row.items() if k not in ("step", "split", "time")}
            last |= {f"{row['split']}/{name}": value for name, value in values.items()}
    return last | result.get("metrics", {})


def label_with_legend(
    axes, metric: str, system: str | None = None, classes: int | None = None, width: int = 46
) -> None:
    """The legend of a metric along the vertical axis, in lines of `width` characters; its chance level is
    that of so many classes."""
    meaning = legend(metric + "*" if metric.endswith("/") else metric, system)
    if meaning is None:
        return
    lines = textwrap.wrap(meaning.line(classes).replace(" of *", ""), width)[:3]
    axes.set_ylabel(plain("\n".join(lines), 160), fontsize=7, color="0.35")


def _draw_metric(axes, name: str, splits: dict, test: float | None) -> None:
    frame(axes, name)
    everything = [value for points in splits.values() for _, value in points]
    if "loss" in name and decades(everything) > 1:
        axes.set_yscale("log")
    if train := splits.get("train"):
        steps, values = map(np.array, zip(*train, strict=True))
        width = len(values) // 20
        if width > 1:
            axes.plot(steps, values, color=TRAIN, alpha=0.3, linewidth=0.7)
        axes.plot(steps, smooth(values, width), color=TRAIN, linewidth=1.6, label="train")
    if val := splits.get("val"):
        steps, values = zip(*val, strict=True)
        size = 4 if len(val) <= 40 else 2
        axes.plot(steps, values, "o-", color=VAL, markersize=size, linewidth=1.4, label="val")
    if test is not None:
        axes.axhline(test, color=TEST, linestyle="--", linewidth=1.3, label=f"test {test:.4g}")
    # Above the axes: there it covers nothing.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, **LEGEND)


def _draw_group(axes, prefix: str, metrics: dict) -> None:
    """Up to ten series have colours of their own; more are shades in order, some of them named."""
    import matplotlib

    frame(axes, prefix)
    lines = [
        (name.split("/", 1)[1] + ("" if split == "train" else f" ({split})"), points)
        for name, splits in metrics.items()
        for split, points in splits.items()
        if len(points) > 1
    ]
    many = len(lines) > len(PALETTE)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(lines)))
    named = set(np.linspace(0, len(lines) - 1, min(len(lines), len(PALETTE))).round().astype(int))
    for index, (label, points) in enumerate(lines):
        steps, values = map(np.array, zip(*points, strict=True))
        color, width = shades[index] if many else PALETTE[index], len(values) // 20
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.6) if width > 1 else None
        axes.plot(
            steps,
            smooth(values, width),
            color=color,
            linewidth=1.2,
            label=plain(label, 22) if index in named else None,
        )
    values = np.array([value for _, points in lines for _, value in points])
    if (values > 0).all():
        axes.set_yscale("log")
    elif (values != 0).any():
        axes.set_yscale("symlog", linthresh=float(np.abs(values[values != 0]).min()))
    title = f"{len(named)} of {len(lines)}" if many else None
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title=title, title_fontsize=8, **LEGEND)


def rank(panel: str) -> tuple:
    """Loss, accuracy and error first, groups last, else as the run wrote them."""
    order = FIRST.index(panel) if panel in FIRST else len(FIRST)
    return panel.endswith("/"), order


def read_json(folder: str | Path, name: str) -> dict:
    """A run's JSON file; empty where there is none, or where it is not whole."""
    try:
        content = parse_json((Path(folder) / name).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _title(folder: str | Path) -> str:
    recipe, name = read_json(folder, "recipe.json"), Path(folder).resolve().name
    words = [str(recipe[k]) for k in ("system", "recipe") if isinstance(recipe.get(k), str)]
    return plain(f"{'/'.join(words)}   ({name})" if words else name, 80)
