"""Runs side by side: a table of their figures, and their validation curves in one picture."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torchstone.errors import BadInput
from torchstone.parts.metrics.direction import is_lower_better
from torchstone.parts.metrics.interquartile_mean import interquartile_mean, interval
from torchstone.plots.canvas import LEGEND, PALETTE, canvas, decades, frame, plain, save
from torchstone.plots.curves import Series, final, label_with_legend, rank, read_json, read_metrics, series_of

FRAMES = "steps of the environment"
SEEDS = ", {} seeds: interquartile mean, 95 %"
SPAN = 5  # ratio of the runs' environment steps above which their axis is logarithmic


def compare(run_folders: Sequence[str | Path], file: str | Path | None = None) -> list[dict]:
    """Runs side by side: one row a run and, with `file`, a panel for each val metric they share.

    A row holds `run`, `system`, `recipe`, `seed`, `steps`, `seconds`, `parameters`, `data` (None where the
    run does not say), and `val/NAME` and `test/NAME` (final values), `best/NAME` (best val value:
    the least of a loss or an error, the greatest of anything else). Of several runs that differ in
    nothing but the seed, three or more are plotted as their interquartile mean with its 95 % interval,
    over the steps that all of them reached; fewer are plotted one by one. Runs that all count `env_steps`
    are plotted over these, on a logarithmic axis where some took `SPAN` times as many as others. Curves on
    different data, known by their content, have panels of their own.
    Metrics named NAME/NUMBER are one panel: their last values over the numbers.

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
        data = _data_of(folders)
        _draw(folders, names, [series_of(rows)[0] for rows in logs], table, data, file)
    return table


def curve_over_env_steps(run_folder: str | Path, metric: str) -> list[tuple[float, float]]:
    """(steps of the environment so far, value) of a metric's validation, for a run that counts `env_steps`.

    Raises:
        BadInput: not a run's folder, or a run that does not count them or has no such metric.
    """
    series = series_of(read_metrics(run_folder))[0]
    if "val" not in series.get(metric, {}) or not _env_steps(series):
        raise BadInput(f"{run_folder} has no validation of {metric} over steps of an environment")
    return _curve(series, metric, True)


def _data_of(folders: list[Path]) -> list[str]:
    """What tells the data of runs apart: their content; the recipes' word for them, where a run does not
    say."""
    recipes = [read_json(folder, "recipe.json") for folder in folders]
    if not all(recipe.get("data") for recipe in recipes):
        return [str(recipe.get("fields", {}).get("data")) for recipe in recipes]
    return [json.dumps([s["splits"] or s["name"] for s in recipe["data"]]) for recipe in recipes]


def _described(recipe: dict) -> str | None:
    """The data of a run in one line: name, and sizes of the splits."""
    parts = []
    for source in recipe.get("data") or ():
        sizes = " / ".join(f"{split['count']:,}" for split in source["splits"].values())
        parts.append(f"{source['name']} ({sizes} {source['unit']})" if sizes else source["name"])
    return "; ".join(parts) or recipe.get("fields", {}).get("data")


def _row(folder: Path, name: str, rows: list[dict]) -> dict:
    recipe, result = read_json(folder, "recipe.json"), read_json(folder, "result.json")
    best = {}
    for metric, splits in series_of(rows)[0].items():
        if "val" in splits and metric not in ("rate", "steps_per_second"):
            values = [value for _, value in splits["val"]]
            best[f"best/{metric}"] = min(values) if is_lower_better(metric) else max(values)
    return {
        "run": name,
        "system": recipe.get("system"),
        "recipe": recipe.get("recipe"),
        "seed": recipe.get("fields", {}).get("seed"),
        "steps": max((row["step"] for row in rows), default=0),
        "seconds": result.get("seconds", max((row.get("time", 0.0) for row in rows), default=0.0)),
        "parameters": result.get("parameters"),
        "data": _described(recipe),
        **final(rows, result),
        **best,
    }


def _names(folders: list[Path]) -> list[str]:
    """Folder names, with as much of the path before them as tells them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def _draw(
    folders: list[Path],
    names: list[str],
    series: list[Series],
    table: list[dict],
    data: list[str],
    file: str | Path,
) -> None:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, folder in enumerate(folders):
        recipe = read_json(folder, "recipe.json")
        fields = {k: v for k, v in recipe.get("fields", {}).items() if k != "seed"}
        same = json.dumps(recipe | {"fields": fields}, sort_keys=True) if recipe else str(index)
        groups[same].append(index)
    bands = [group for group in groups.values() if len(group) > 2]
    single = [i for group in groups.values() if len(group) <= 2 for i in group]

    with_val = [{m for m in each if "val" in each[m] and m != "rate"} for each in series]
    common = {_profile(name) or name for name in set.intersection(*with_val)}
    shared = sorted(common, key=lambda name: (rank(name), name))
    framed = all(_env_steps(each) for each in series)
    panels = [(each, metric) for each in dict.fromkeys(data) for metric in shared]
    columns = max(1, min(3, len(shared)))
    down = max(1, math.ceil(len(panels) / columns))
    entries = len(bands) + len(single)
    band_names = [f"{table[group[0]]['system']}/{table[group[0]]['recipe']}" for group in bands]
    longest = max([*map(len, names), *(len(name) + len(SEEDS) for name in band_names)]) + 12
    across = max(1, min(entries, int((4.7 * columns + 1) / (0.5 + 0.07 * min(longest, 60)))))
    figure = canvas(4.7 * columns + 1, 3.1 * down + 0.5 + 0.22 * math.ceil(entries / across))
    title = f"validation of {len(folders)} run{'s' * (len(folders) > 1)}"
    figure.suptitle(title, fontsize=12, fontweight="bold")
    if not shared:
        figure.text(0.5, 0.45, "the runs share no val metric", ha="center", fontsize=10)
        return save(figure, file)
    handles, systems = {}, list({row["system"] for row in table})
    classes = [read_json(folder, "result.json").get("classes") for folder in folders]
    for index, (own, metric) in enumerate(panels):
        axes = figure.add_subplot(down, columns, index + 1)
        on = f" on {table[data.index(own)]['data']}" if len(set(data)) > 1 else ""
        frame(axes, f"{metric}{on}")
        counts = {count for count, on in zip(classes, data, strict=True) if on == own}
        system = systems[0] if len(systems) == 1 else None
        label_with_legend(axes, metric, system, counts.pop() if len(counts) == 1 else None)
        numbered = metric.endswith("/")
        axes.set_xlabel("the number in its name" if numbered else FRAMES if framed else "step", fontsize=8)
        plotted, reached = [], []
        for order, group in enumerate([*bands, *([i] for i in single)]):
            if data[group[0]] != own:
                continue
            # Past the palette, the line's pattern tells runs apart.
            look = {
                "color": PALETTE[order % len(PALETTE)],
                "linestyle": ("-", "--", ":", "-.")[order // len(PALETTE) % 4],
            }
            curves = [_last(series[i], metric) or _curve(series[i], metric, framed) for i in group]
            plotted += [value for curve in curves for _, value in curve]
            reached += [[step for step, _ in curve] for curve in curves]
            if len(group) > 2:
                grid, values = _aligned(curves)
                low, high = interval(values)
                # a line through one point has no length: it is a marker with its interval
                alone = len(grid) == 1
                width = 4 if alone else 0
                axes.fill_between(grid, low, high, color=look["color"], alpha=0.2, linewidth=width)
                middle = interquartile_mean(values)
                (line,) = axes.plot(grid, middle, linewidth=1.8, marker="o" if alone else None, **look)
                first = table[group[0]]
                label = f"{first['system']}/{first['recipe']}{SEEDS.format(len(group))}"
            else:
                size = 3.5 if len(curves[0]) <= 40 else 0
                (line,) = axes.plot(
                    *zip(*curves[0], strict=True), marker="o", markersize=size, linewidth=1.3, **look
                )
                label = names[group[0]]
            handles.setdefault(plain(label, 60), line)
        ends = [steps[-1] for steps in reached]
        if framed and not numbered and max(ends) > SPAN * min(ends) > 0:
            axes.set_xscale("symlog", linthresh=min(step for steps in reached for step in steps if step))
        if ("loss" in metric or numbered) and decades(plotted) > 1:
            axes.set_yscale("log")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=across, **LEGEND)
    save(figure, file)


def _profile(metric: str) -> str:
    """`NAME/` of `NAME/NUMBER`; nothing of any other name."""
    name, slash, number = metric.rpartition("/")
    return name + slash if number.isdigit() else ""


def _last(series: Series, profile: str) -> list[tuple[float, float]]:
    """(number, last value) of each metric of a profile."""
    names = [name for name in series if profile.endswith("/") and _profile(name) == profile]
    points = [(float(name.rpartition("/")[2]), series[name]["val"][-1][1]) for name in names]
    return sorted(points)


def _curve(series: Series, metric: str, framed: bool) -> list[tuple[float, float]]:
    """A metric's validation over the updates, or over the environment steps that had been taken by then."""
    points = series[metric]["val"]
    if not framed:
        return points
    steps, env_steps = zip((0, 0), *_env_steps(series), strict=True)
    return [(float(np.interp(step, steps, env_steps)), value) for step, value in points]


def _env_steps(series: Series) -> list[tuple[float, float]]:
    """Environment steps by update, of reinforcement learning; earlier versions called them `frames`."""
    return series["env_steps"]["train"] or series["frames"]["train"]


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
