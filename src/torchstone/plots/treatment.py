"""Treatment policies as a clinician reads them: which doses, by severity, and what they lead to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, plain, save

LOOKS = {"agent": (PALETTE[0], "o"), "clinicians": (PALETTE[1], "s"), "optimum": (PALETTE[2], "^")}


def draw_treatment(
    doses: Mapping[str, Sequence[np.ndarray]],
    survival: Mapping[str, Sequence[float]],
    severity: Sequence[str],
    estimates: Mapping[str, tuple[float, float, float]],
    truth: float,
    file: str | Path,
    title: str,
) -> None:
    """Above, how often each pair of doses is given, a row of tables a policy, by severity; below, survival by
    severity, and what episodes of clinicians say of the agent, with intervals, beside the truth.

    Args:
        doses: by policy, for each severity the shares of time steps `(fluids, vasopressors)`.
        survival: by policy, the chance of survival from each severity on.
        severity: names of the groups, mild first.
        estimates: by estimator: value, lower and upper bound.
    """
    columns = len(severity)
    figure = canvas(3.0 * columns + 0.6, 2.3 * len(doses) + 3.2)
    figure.suptitle(plain(title, 100), fontsize=11, fontweight="bold")
    grid = figure.add_gridspec(len(doses) + 1, 2 * columns, height_ratios=[*[2.3] * len(doses), 2.9])
    high = max(float(table.max()) for tables in doses.values() for table in tables)
    for row, (name, tables) in enumerate(doses.items()):
        for column, table in enumerate(tables):
            axes = figure.add_subplot(grid[row, 2 * column : 2 * column + 2])
            axes.imshow(table.T, origin="lower", cmap="Blues", vmin=0, vmax=high)
            for (fluids, vasopressors), share in np.ndenumerate(table):
                color = "white" if share > 0.6 * high else "black"
                text = f"{100 * share:.0f}" if share >= 0.005 else "·"
                axes.text(fluids, vasopressors, text, ha="center", va="center", fontsize=7, color=color)
            axes.set_title(plain(f"{name}, {severity[column]}"), loc="left", fontsize=9, fontweight="bold")
            axes.set(xticks=range(len(table)), yticks=range(table.shape[1]))
            axes.set_xlabel("fluids, level" if row == len(doses) - 1 else "", fontsize=8)
            axes.set_ylabel("" if column else "vasopressors, level", fontsize=8)
            axes.tick_params(labelsize=8, length=0)
            axes.spines[:].set_visible(False)
    axes = figure.add_subplot(grid[-1, :columns])
    frame(axes, "survival, %")
    for name, values in survival.items():
        color, marker = LOOKS.get(name, (PALETTE[7], "x"))
        percents = [100 * value for value in values]
        axes.plot(range(columns), percents, color=color, marker=marker, label=plain(name))
    axes.set_xticks(range(columns), [plain(name) for name in severity])
    axes.legend(**LEGEND)
    axes = figure.add_subplot(grid[-1, columns:])
    frame(axes, "off-policy estimates of the agent, %")
    axes.axvline(100 * truth, color=PALETTE[2], linewidth=1.5, label=f"truth, {100 * truth:.1f}")
    for index, (value, low, up) in enumerate(estimates.values()):
        axes.plot([100 * low, 100 * up], [index, index], color=PALETTE[0], linewidth=2)
        axes.plot([100 * value], [index], color=PALETTE[0], marker="o")
    axes.set_yticks(range(len(estimates)), [plain(name.replace("_", " ")) for name in estimates])
    axes.invert_yaxis()
    axes.legend(**LEGEND)
    save(figure, file)
