"""Cooling of a data centre: a week step by step, and energy against the time in the recommended band."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, plain, save

BAND, STEPS_PER_DAY = (18, 27), 96


def week(
    readings: Sequence[Any], setpoints: Float[np.ndarray, "steps m"], fixed: Sequence[float], file: Path
) -> None:
    """Draw temperatures against the band, set-points, outdoor temperature with the load, and power.

    Args:
        readings: `envs.energyplus.Reading` of each step.
        setpoints: of the zones, and of the supply air if there are two, in °C.
        fixed: W of cooling with a fixed set-point in the same weather.
    """
    figure = canvas(11, 9)
    days = np.arange(1, len(readings) + 1) / STEPS_PER_DAY
    panels = figure.subplots(4, 1, sharex=True)
    zones, setting, outdoor, power = panels
    frame(zones, "zone temperature, °C")
    zones.axhspan(*BAND, color=PALETTE[2], alpha=0.12, linewidth=0, label="recommended 18 to 27 °C")
    for name, color in (("east", PALETTE[1]), ("west", PALETTE[0])):
        zones.plot(days, [getattr(each, name) for each in readings], color=color, linewidth=1.2, label=name)
    zones.set_ylim(min(17, zones.get_ylim()[0]), max(28, zones.get_ylim()[1]) + 2)  # room for the legend
    frame(setting, "set-points, °C")
    for index, name in enumerate(("zones' thermostat", "supply air")[: setpoints.shape[1]]):
        setting.step(
            days, setpoints[:, index], where="pre", color=PALETTE[index + 3], linewidth=1.1, label=name
        )
    frame(outdoor, "outdoors, °C")
    outdoor.plot(days, [each.outdoor for each in readings], color="0.25", linewidth=1.2, label="temperature")
    load = outdoor.twinx()
    load.fill_between(days, [each.load for each in readings], color="0.6", alpha=0.3, step="pre", linewidth=0)
    outdoor.set_ylim(None, outdoor.get_ylim()[1] + 0.2 * np.ptp(outdoor.get_ylim()))
    load.set(ylim=(0, 2.5), yticks=[0, 0.5, 1])
    load.tick_params(labelsize=8)
    load.set_ylabel("servers' load", fontsize=8, loc="bottom")
    load.spines["top"].set_visible(False)
    frame(power, "HVAC power, kW")
    ours = np.array([each.power for each in readings])
    saving = 1 - ours.sum() / np.sum(fixed)
    power.plot(days, np.asarray(fixed) / 1e3, color="0.55", linewidth=1.2, label="fixed 24 °C")
    power.plot(
        days, ours / 1e3, color=PALETTE[0], linewidth=1.2, label=f"agent, {100 * saving:.1f} % less energy"
    )
    power.set_ylim(0, 1.2 * power.get_ylim()[1])
    power.set_xlabel("day", fontsize=8)
    for axes in panels:
        axes.set_xlim(0, days[-1])
        axes.legend(loc="upper right", ncols=3, **LEGEND)
    setting.set_ylim(11, 31)
    save(figure, file)


def energy_against_band(points: Mapping[str, tuple[float, float, str]], title: str, file: Path) -> None:
    """Draw each controller's mean HVAC power against its share of time in the band.

    Args:
        points: (kW, share, kind) by name; a kind has one color and one entry of the legend.
    """
    figure = canvas(9, 5.5)
    axes = figure.add_subplot()
    frame(axes, title)
    kinds = list(dict.fromkeys(kind for *_, kind in points.values()))
    for index, kind in enumerate(kinds):
        chosen = [(100 * share, kilowatts) for kilowatts, share, k in points.values() if k == kind]
        axes.scatter(*zip(*chosen, strict=True), s=34, color=PALETTE[index], label=kind, zorder=3)
    for name, (kilowatts, share, _) in points.items():
        axes.annotate(
            plain(name), (100 * share, kilowatts), (5, 3), textcoords="offset points", fontsize=7, color="0.3"
        )
    axes.set_xlabel("time with both zones within 18 to 27 °C, %", fontsize=8)
    axes.set_ylabel("mean HVAC power, kW", fontsize=8)
    axes.legend(loc="best", **LEGEND)
    save(figure, file)
