"""Forecasts as pictures, tables and files: the median, and the band of the outer quantiles."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, plain, save
from torchstone.tasks.series import forecaster
from torchstone.tasks.series.forecaster import PointForecaster, ForecastSpec

TRUTH, OURS, OTHERS = (
    "0.25",
    PALETTE[0],
    {"linear": PALETTE[1], "repeat": "0.6", "seasonal": PALETTE[2]},
)


def band_name(how: ForecastSpec) -> str:
    """The band in words: its lowest and highest quantile."""
    return f"{how.quantiles[0]:g} to {how.quantiles[-1]:g}"


def examples(
    model: nn.Module,
    how: ForecastSpec,
    past: Float[Tensor, "windows context columns"],
    future: Float[Tensor, "windows horizon columns"],
    others: dict[str, PointForecaster],
    columns: Sequence[str],
    file: Path,
) -> None:
    """Draws windows with what was told of them; each shows another column, in standardised units."""
    told = forecaster.predict_quantiles(model, how, past).cpu()
    points = {name: other(past).cpu() for name, other in others.items()}
    shown = min(how.context, 2 * how.horizon)
    figure = canvas(11, 2.5 * ((len(past) + 1) // 2))
    for number in range(len(past)):
        column = number % len(columns)
        axes = figure.add_subplot((len(past) + 1) // 2, 2, number + 1)
        frame(axes, columns[column])
        ahead = np.arange(1, how.horizon + 1)
        axes.plot(np.arange(1 - shown, 1), past[number, -shown:, column].cpu(), color=TRUTH, linewidth=1)
        axes.plot(ahead, future[number, :, column].cpu(), color=TRUTH, linewidth=1, label="truth")
        _band(axes, ahead, told[number, :, column], how)
        for name, point in points.items():
            axes.plot(ahead, point[number, :, column], color=OTHERS[name], linewidth=1, label=name)
        axes.axvline(0.5, color="0.8", linewidth=0.8)
        if number == 0:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, **LEGEND)
    save(figure, file)


def errors_by_step(found: dict[str, Float[Tensor, " horizon"]], how: ForecastSpec, file: Path, step: str) -> None:
    """Draws how errors grow with the distance, and how much of the truth the band holds."""
    figure = canvas(11, 3.2)
    ahead = np.arange(1, how.horizon + 1)
    for place, kind in enumerate(("mse", "mae"), 1):
        axes = figure.add_subplot(1, 3, place)
        frame(axes, f"{kind}, standardised")
        for name in (name for name in found if name.endswith(kind)):
            other = name.removesuffix(kind).removesuffix("_")
            colour = OTHERS[other] if other else OURS
            axes.plot(
                ahead, found[name].cpu(), color=colour, linewidth=1.6 if not other else 1.1,
                label=f"{other or 'recurrent'} {float(found[name].mean()):.3f}",
            )  # fmt: skip
        axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the legend
        axes.set_xlabel(f"steps of {step} ahead", fontsize=8)
        axes.legend(loc="upper left", ncols=2, **LEGEND)
    axes = figure.add_subplot(1, 3, 3)
    frame(axes, f"truth between {band_name(how)}")
    axes.plot(ahead, found["coverage"].cpu(), color=OURS, linewidth=1.6)
    axes.axhline(how.quantiles[-1] - how.quantiles[0], color="0.5", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"steps of {step} ahead", fontsize=8)
    save(figure, file)


def _band(axes, places, told: Float[Tensor, "horizon quantiles"], how: ForecastSpec) -> None:
    low, middle, high = (told[:, i] for i in (0, how.quantiles.index(0.5), -1))
    axes.fill_between(places, low, high, color=OURS, alpha=0.2, linewidth=0, label=band_name(how))
    axes.plot(places, middle, color=OURS, linewidth=1.6, label="median")


def answer(
    name: str,
    times: Sequence[str],
    told: Float[Tensor, "horizon columns quantiles"],
    how: ForecastSpec,
    columns: Sequence[str],
) -> dict[str, Any]:
    """A forecast as JSON, with a table of it as `text`."""
    middle = how.quantiles.index(0.5)
    quantiles = {
        column: {f"{q:g}": told[:, i, j].tolist() for j, q in enumerate(how.quantiles)}
        for i, column in enumerate(columns)
    }
    cells = [
        [when, *(f"{row[middle]:.4g} ({row[0]:.4g} to {row[-1]:.4g})" for row in point.tolist())]
        for when, point in zip(times, told, strict=True)
    ]
    cells.insert(0, ["time", *columns])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in cells]
    title = f"{name}: median, and in brackets the quantiles {band_name(how)}"
    text = "\n".join([title, *(line.rstrip() for line in lines)])
    return {"input": name, "times": list(times), "quantiles": quantiles, "text": text}


def write(
    file: Path,
    answer: dict[str, Any],
    times: np.ndarray,
    values: np.ndarray,
    ahead: Sequence[float],
    told: Float[Tensor, "horizon columns quantiles"],
    how: ForecastSpec,
    unit: str,
) -> None:
    """The forecast's numbers where `file` ends in .csv, else its picture after the end of the series.

    Raises:
        BadInput: it cannot be written.
    """
    beside = file.with_name(f"{file.stem}.new{file.suffix}")
    try:
        if file.suffix.lower() == ".csv":
            _numbers(beside, answer)
        else:
            _picture(beside, answer, times, values, ahead, told, how, unit)
        os.replace(beside, file)
    except OSError as error:
        raise BadInput(f"cannot write {file} ({error.strerror}): choose another --out") from None


def _numbers(file: Path, answer: dict[str, Any]) -> None:
    tables = answer["quantiles"]
    with file.open("w", encoding="utf-8", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(["time", *(f"{name} {q}" for name, told in tables.items() for q in told)])
        for i, when in enumerate(answer["times"]):
            lines.writerow([when, *(row[i] for told in tables.values() for row in told.values())])


def _picture(file, answer, times, values, ahead, told, how, unit) -> None:
    # dates as such; months and plain numbers as they are counted
    as_dates = unit == "seconds"
    before, after = (
        np.array(t, dtype="float64").astype("datetime64[s]") if as_dates else np.array(t)
        for t in (times, ahead)
    )
    if unit == "months":
        before, after = before / 12, after / 12  # years
    columns = list(answer["quantiles"])
    figure = canvas(9, 0.6 + 2.4 * len(columns))
    for i, column in enumerate(columns):
        axes = figure.add_subplot(len(columns), 1, i + 1)
        axes.plot(before, values[:, i], color=TRUTH, linewidth=1.2, label="as read")
        _band(axes, after, told[:, i], how)
        axes.set_title(plain(column), loc="left", fontsize=10, fontweight="bold")
        axes.tick_params(labelsize=8)
        axes.grid(True, color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, **LEGEND)
        if as_dates:
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            locator = AutoDateLocator()
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    save(figure, file)


def named(spec: str) -> Path:
    """Where the picture of a file's forecast goes: in the folder one is in."""
    path = Path(spec)
    if not path.exists() and ":" in spec:
        path = Path(spec.rpartition(":")[0])
    return Path(f"{path.stem}-forecast.png")
