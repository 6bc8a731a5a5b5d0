"""Curves of a run, and runs side by side, from the rows that the meter wrote.

Pictures are drawn through matplotlib's objects, never through `pyplot`: no global state, nothing
left open, safe in a thread.
"""

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from torchstone.engine.meter import read_rows
from torchstone.errors import BadInput

DPI = 110
TRAIN, VAL, TEST = "#0072B2", "#D55E00", "#007A5E"  # Okabe and Ito's: told apart by every eye
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B38600", "#56B4E9", "#7F4FC9", "#555555")
FIRST = ("loss", "accuracy", "error")
# The schedule and the speed: seen at a glance, so drawn small, at the foot.
SMALL = ("lr", "rate")
# Words in a metric's name that make less of it better.
LESS = ("loss", "error", "perplexity", "bits", "nll", "mse", "mae", "rmse", "fid", "kl", "distance")

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
    series, dropped = _series(rows)
    test = {
        k[5:]: v
        for k, v in _final(rows, _json(run_folder, "result.json")).items()
        if k[:5] == "test/"
    }
    panels: dict[str, list[str]] = defaultdict(list)
    for name, splits in series.items():
        if any(len(points) > 1 for points in splits.values()):
            panels[name.split("/")[0] + "/" if "/" in name else name].append(name)
    large = sorted((p for p in panels if p not in SMALL), key=_rank)
    small = [p for p in SMALL if p in panels]

    columns = max(1, min(3, max(len(large), len(small))))
    heights = [3.0] * math.ceil(len(large) / columns) + [1.8] * math.ceil(len(small) / columns)
    figure = canvas(4.7 * columns + (1.2 if columns == 1 else 0), sum(heights or [2]) + 0.5)
    figure.suptitle(_title(run_folder), fontsize=12, fontweight="bold")
    if not heights:
        figure.text(
            0.5, 0.45, "fewer than two points: nothing to draw yet", ha="center", fontsize=10
        )
        return save(figure, file)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for index, panel in enumerate(large):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        if panel.endswith("/"):
            _draw_group(axes, panel, {name: series[name] for name in panels[panel]})
        else:
            _draw_metric(axes, panel, series[panel], test.get(panel))
        lost = sum(dropped.get(name, 0) for name in panels[panel])
        axes.set_xlabel(
            f"step   ({lost} values not finite, not drawn)" if lost else "step", fontsize=8
        )
    for index, panel in enumerate(small):
        axes = figure.add_subplot(grid[len(heights) - 1, index % columns])
        _frame(axes, {"lr": "learning rate (lr)", "rate": "steps per second"}[panel])
        points = max(series[panel].values(), key=len)
        axes.plot(*zip(*points, strict=True), color="0.25", linewidth=1.2)
        low = min(value for _, value in points)
        axes.set_ylim(bottom=0) if low >= 0 else None
    save(figure, file)


def compare(run_folders: list[str | Path], file: str | Path | None = None) -> list[dict]:
    """Runs side by side: one row a run and, with `file`, a panel for each val metric they share.

    A row holds `run`, `system`, `recipe`, `seed`, `steps`, `seconds`, `parameters` (None where the
    run does not say), and `val/NAME` and `test/NAME` (final values), `best/NAME` (best val value:
    the least of a loss or an error, the greatest of anything else). Of several runs that differ in
    nothing but the seed, three or more are drawn as their mean with a band from least to greatest,
    over the steps that all of them reached; fewer are drawn one by one.

    Raises:
        BadInput: no folder, or one that is not a run.
    """
    if not run_folders:
        raise BadInput("nothing to compare: name one run's folder or more")
    folders = [Path(folder) for folder in run_folders]
    logs = [read_metrics(folder) for folder in folders]
    names = _names(folders)
    table = [_row(*each) for each in zip(folders, names, logs, strict=True)]
    if file is not None:
        _draw_compare(folders, names, [_series(rows)[0] for rows in logs], table, file)
    return table


# ---------------------------------------------------------------------------- shared with pictures


def canvas(width: float, height: float, layout="constrained"):
    """An empty figure of `width` x `height` inches that draws into memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure, file: str | Path) -> None:
    """Writes the picture, its folder too where there is none."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI, facecolor="white")


def plain(text: str, most: int = 40) -> str:
    """Text as it stands: matplotlib reads `$` as mathematics and hides labels that begin with `_`."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    text = text.replace("$", r"\$")
    return " " + text if text.startswith("_") else text


# --------------------------------------------------------------------------------------- one run


def _series(rows: list[dict]) -> tuple[Series, dict[str, int]]:
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


def _final(rows: list[dict], result: dict) -> dict[str, float]:
    """Last value of every val and test metric, as `val/loss`; the result's own word goes first.

    A metric of the result that names no split is the one the run is judged by at the end: test
    where the run has a test split, else val.
    """
    final = {}
    for row in rows:
        if row["split"] in ("val", "test"):
            values = {k: v for k, v in row.items() if k not in ("step", "split", "time", "rate")}
            final |= {f"{row['split']}/{name}": value for name, value in values.items()}
    judged = "val" if any(r["split"] == "val" for r in rows) else "test"
    judged = "test" if any(r["split"] == "test" for r in rows) else judged
    for name, value in result.get("metrics", {}).items():
        if isinstance(value, dict):
            final |= {f"{name}/{inner}": number for inner, number in value.items()}
        elif name.split("/")[0] in ("val", "test"):
            final[name] = value
        else:
            final[f"{judged}/{name}"] = value
    return final


def _draw_metric(axes, name: str, splits: dict, test: float | None) -> None:
    _frame(axes, name)
    everything = [value for points in splits.values() for _, value in points]
    if "loss" in name and _decades(everything) > 1:
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
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, **_LEGEND)


def _draw_group(axes, prefix: str, metrics: dict) -> None:
    """Up to ten series have colours of their own; more are shades in order, some of them named."""
    import matplotlib

    _frame(axes, prefix)
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
        colour, width = shades[index] if many else PALETTE[index], len(values) // 20
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.6) if width > 1 else None
        axes.plot(
            steps,
            smooth(values, width),
            color=colour,
            linewidth=1.2,
            label=plain(label, 22) if index in named else None,
        )
    values = np.array([value for _, points in lines for _, value in points])
    if (values > 0).all():
        axes.set_yscale("log")
    elif (values != 0).any():
        axes.set_yscale("symlog", linthresh=float(np.abs(values[values != 0]).min()))
    title = f"{len(named)} of {len(lines)}" if many else None
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title=title, title_fontsize=8, **_LEGEND)


_LEGEND = {
    "frameon": False,
    "fontsize": 8,
    "borderaxespad": 0.2,
    "handlelength": 1.6,
    "columnspacing": 1.2,
}


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving mean over about `width` points: it does not lag behind what it smooths.

    Towards an end the window shrinks on both sides alike (a slope keeps its place), but to a third
    at most (the last points are not bare noise).
    """
    half, index, last = width // 2, np.arange(len(values)), len(values) - 1
    half = np.clip(np.minimum(index, last - index), half // 3, half)
    first, last = np.maximum(index - half, 0), np.minimum(index + half, last)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=float)])
    return (total[last + 1] - total[first]) / (last + 1 - first)


def _frame(axes, title: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_title(plain(title, 44), loc="left", fontsize=10, fontweight="bold")
    axes.tick_params(labelsize=8)
    axes.tick_params(which="minor", labelsize=8)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _decades(values: list[float]) -> float:
    return math.log10(max(values) / min(values)) if min(values) > 0 else 0.0


def _rank(panel: str) -> tuple:
    """Loss, accuracy and error first, groups last, else as the run wrote them."""
    place = FIRST.index(panel) if panel in FIRST else len(FIRST)
    return panel.endswith("/"), place


def _json(folder: str | Path, name: str) -> dict:
    """A run's JSON file; empty where there is none, or where it is not whole."""
    try:
        content = json.loads((Path(folder) / name).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _title(folder: str | Path) -> str:
    recipe, name = _json(folder, "recipe.json"), Path(folder).resolve().name
    words = [str(recipe[k]) for k in ("system", "recipe") if isinstance(recipe.get(k), str)]
    return plain(f"{'/'.join(words)}   ({name})" if words else name, 80)


# ------------------------------------------------------------------------------------ several runs


def _row(folder: Path, name: str, rows: list[dict]) -> dict:
    recipe, result = _json(folder, "recipe.json"), _json(folder, "result.json")
    best = {}
    for metric, splits in _series(rows)[0].items():
        if "val" in splits and metric != "rate":
            values = [value for _, value in splits["val"]]
            best[f"best/{metric}"] = min(values) if _less(metric) else max(values)
    return {
        "run": name,
        "system": recipe.get("system"),
        "recipe": recipe.get("recipe"),
        "seed": _seed(recipe),
        "steps": max((row["step"] for row in rows), default=0),
        "seconds": result.get("seconds", max((row.get("time", 0.0) for row in rows), default=0.0)),
        "parameters": result.get("parameters"),
        **_final(rows, result),
        **best,
    }


def _less(metric: str) -> bool:
    words = metric.lower().replace("/", "_").replace("-", "_").split("_")
    return any(word in LESS for word in words)


def _seed(recipe: dict):
    """The seed, wherever in the recipe it stands."""
    if "seed" in recipe:
        return recipe["seed"]
    inner = (_seed(value) for value in recipe.values() if isinstance(value, dict))
    return next((seed for seed in inner if seed is not None), None)


def _without_seed(value):
    if isinstance(value, dict):
        return {k: _without_seed(v) for k, v in value.items() if k not in ("seed", "out")}
    return value


def _names(folders: list[Path]) -> list[str]:
    """Folder names, with as much of the path before them as tells them apart."""
    whole = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(names)) == len(set(whole)):
            break
    return names


def _draw_compare(folders, names, series: list[Series], table: list[dict], file) -> None:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, folder in enumerate(folders):
        recipe = _json(folder, "recipe.json")
        groups[json.dumps(_without_seed(recipe), sort_keys=True) if recipe else str(index)] += [
            index
        ]
    bands = [group for group in groups.values() if len(group) > 2]
    single = [i for group in groups.values() if len(group) <= 2 for i in group]

    with_val = [{m for m in each if "val" in each[m] and m != "rate"} for each in series]
    shared = sorted(set.intersection(*with_val), key=lambda name: (_rank(name), name))
    columns = max(1, min(3, len(shared)))
    down = max(1, math.ceil(len(shared) / columns))
    entries = len(bands) + len(single)
    longest = max(map(len, names)) + 12
    across = max(1, min(entries, int((4.7 * columns + 1) / (0.5 + 0.07 * min(longest, 60)))))
    figure = canvas(4.7 * columns + 1, 3.1 * down + 0.5 + 0.22 * math.ceil(entries / across))
    figure.suptitle(f"validation of {len(folders)} runs", fontsize=12, fontweight="bold")
    if not shared:
        figure.text(0.5, 0.45, "the runs share no val metric", ha="center", fontsize=10)
        return save(figure, file)
    handles = {}
    for place, metric in enumerate(shared):
        axes = figure.add_subplot(down, columns, place + 1)
        _frame(axes, metric)
        axes.set_xlabel("step", fontsize=8)
        drawn = []
        for order, group in enumerate([*bands, *([i] for i in single)]):
            # Past the palette, the line's pattern tells runs apart.
            look = {
                "color": PALETTE[order % len(PALETTE)],
                "linestyle": ("-", "--", ":", "-.")[order // len(PALETTE) % 4],
            }
            curves = [series[i][metric]["val"] for i in group]
            drawn += [value for curve in curves for _, value in curve]
            if len(group) > 2:
                grid, values = _aligned(curves)
                axes.fill_between(
                    grid, values.min(0), values.max(0), color=look["color"], alpha=0.2, linewidth=0
                )
                (line,) = axes.plot(grid, values.mean(0), linewidth=1.8, **look)
                first = table[group[0]]
                label = f"{first['system']}/{first['recipe']}: mean of {len(group)}, band min–max"
            else:
                size = 3.5 if len(curves[0]) <= 40 else 0
                (line,) = axes.plot(
                    *zip(*curves[0], strict=True),
                    marker="o",
                    markersize=size,
                    linewidth=1.3,
                    **look,
                )
                label = names[group[0]]
            handles.setdefault(plain(label, 60), line)
        if "loss" in metric and _decades(drawn) > 1:
            axes.set_yscale("log")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=across, **_LEGEND
    )
    save(figure, file)


def _aligned(curves: list[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves read at the same steps, those that all of them reached: (steps,), (runs, steps).

    Evaluation goes by the clock, so that two seeds are seldom measured at the same steps.
    """
    first = max(curve[0][0] for curve in curves)
    last = min(curve[-1][0] for curve in curves)
    steps = sorted({step for curve in curves for step, _ in curve if first <= step <= last})
    grid = np.array(steps or [first], dtype=float)
    values = [np.interp(grid, *map(np.array, zip(*curve, strict=True))) for curve in curves]
    return grid, np.stack(values)
