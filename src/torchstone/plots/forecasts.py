"""Forecast figures: the median, and the band between the outer quantiles."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, plain, save

TRUTH_COLOR, MODEL_COLOR = "0.25", PALETTE[0]
BASELINE_COLORS = {"linear": PALETTE[1], "persistence": "0.6", "seasonal": PALETTE[2]}


def band_name(levels: Sequence[float]) -> str:
    """The band in words: its lowest and highest quantile."""
    return f"{levels[0]:g} to {levels[-1]:g}"


def examples(
    predicted: Float[Tensor, "windows horizon columns quantiles"],
    past: Float[Tensor, "windows context columns"],
    future: Float[Tensor, "windows horizon columns"],
    baselines: Mapping[str, Float[Tensor, "windows horizon columns"]],
    levels: Sequence[float],
    columns: Sequence[str],
    file: Path,
) -> None:
    """Draw windows with their forecasts; each shows another column, in standardized units."""
    context, horizon = past.shape[1], future.shape[1]
    plotted = min(context, 2 * horizon)
    figure = canvas(11, 2.5 * ((len(past) + 1) // 2))
    for number in range(len(past)):
        column = number % len(columns)
        axes = figure.add_subplot((len(past) + 1) // 2, 2, number + 1)
        frame(axes, columns[column])
        ahead = np.arange(1, horizon + 1)
        before = past[number, -plotted:, column].cpu()
        axes.plot(np.arange(1 - plotted, 1), before, color=TRUTH_COLOR, linewidth=1)
        axes.plot(ahead, future[number, :, column].cpu(), color=TRUTH_COLOR, linewidth=1, label="truth")
        _band(axes, ahead, predicted[number, :, column].cpu(), levels)
        for name, points in baselines.items():
            color = BASELINE_COLORS[name]
            axes.plot(ahead, points[number, :, column].cpu(), color=color, linewidth=1, label=name)
        axes.axvline(0.5, color="0.8", linewidth=0.8)
        if number == 0:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, **LEGEND)
    save(figure, file)


def errors_by_step(
    errors: Mapping[str, Float[Tensor, " horizon"]], levels: Sequence[float], file: Path, step: str
) -> None:
    """Draw how errors grow over the horizon, and the coverage of the band."""
    figure = canvas(11, 3.2)
    ahead = np.arange(1, len(errors["coverage"]) + 1)
    for panel, kind in enumerate(("mse", "mae"), 1):
        axes = figure.add_subplot(1, 3, panel)
        frame(axes, f"{kind}, standardized")
        for name in (name for name in errors if name.endswith(kind)):
            baseline = name.removesuffix(kind).removesuffix("_")
            axes.plot(
                ahead,
                errors[name].cpu(),
                color=BASELINE_COLORS[baseline] if baseline else MODEL_COLOR,
                linewidth=1.1 if baseline else 1.6,
                label=f"{baseline or 'recurrent'} {float(errors[name].mean()):.3f}",
            )
        axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the legend
        axes.set_xlabel(f"steps of {step} ahead", fontsize=8)
        axes.legend(loc="upper left", ncols=2, **LEGEND)
    axes = figure.add_subplot(1, 3, 3)
    frame(axes, f"truth between {band_name(levels)}")
    axes.plot(ahead, errors["coverage"].cpu(), color=MODEL_COLOR, linewidth=1.6)
    axes.axhline(levels[-1] - levels[0], color="0.5", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"steps of {step} ahead", fontsize=8)
    save(figure, file)


def continuation(
    file: Path,
    columns: Sequence[str],
    times: Sequence[float] | np.ndarray,
    values: np.ndarray,
    future_times: Sequence[float],
    predicted: Float[Tensor, "horizon columns quantiles"],
    levels: Sequence[float],
    unit: str,
) -> None:
    """Draw a forecast after the end of its series, a panel per column.

    Args:
        unit: of the times: `seconds` since 1970, with the offset of their clock from UTC after it if there
            is one, `months` since year 0, or `numbers`.
    """
    is_dates = unit.startswith("seconds")
    before, after = (
        np.array(t, dtype="float64").astype("datetime64[s]") if is_dates else np.array(t)
        for t in (times, future_times)
    )
    if unit == "months":
        before, after = before / 12, after / 12  # years
    figure = canvas(9, 0.6 + 2.4 * len(columns))
    for i, column in enumerate(columns):
        axes = figure.add_subplot(len(columns), 1, i + 1)
        axes.plot(before, values[:, i], color=TRUTH_COLOR, linewidth=1.2, label="data")
        _band(axes, after, predicted[:, i], levels)
        axes.set_title(plain(column), loc="left", fontsize=10, fontweight="bold")
        axes.tick_params(labelsize=8)
        axes.grid(True, color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if i == 0:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, **LEGEND)
        if is_dates:
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            locator = AutoDateLocator()
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
            if zone := unit.removeprefix("seconds"):
                axes.set_xlabel(f"times at UTC{zone}", fontsize=8)
    save(figure, file)


def _band(axes, times, predicted: Float[Tensor, "horizon quantiles"], levels: Sequence[float]) -> None:
    low, median, high = (predicted[:, i] for i in (0, list(levels).index(0.5), -1))
    axes.fill_between(times, low, high, color=MODEL_COLOR, alpha=0.2, linewidth=0, label=band_name(levels))
    axes.plot(times, median, color=MODEL_COLOR, linewidth=1.6, label="median")
