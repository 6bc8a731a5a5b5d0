"""Gantt charts: which machine does which job when."""

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, plain, save

SHADES = (0.95, 0.6, 0.35)  # jobs beyond the colors have them lighter


def draw_gantt(
    charts: Mapping[str, tuple[Int64[Tensor, "job operation"], Float[Tensor, "job operation"]]],
    duration: Float[Tensor, "job operation"],
    bound: float,
    bound_name: str,
    file: str | Path,
    title: str,
) -> None:
    """One chart a schedule, one above the other on one scale of time: a row is a machine, a bar an operation
    with the number of its job.

    Args:
        charts: by title: the machine and the start of each operation.
        bound: a vertical line, such as the optimum.
    """
    jobs, machines = duration.shape
    end = max(float((start + duration).max()) for _, start in charts.values())
    figure = canvas(10.0, 0.7 + len(charts) * (0.75 + 0.24 * machines))
    figure.suptitle(plain(title, 90), fontsize=11, fontweight="bold")
    grid = figure.add_gridspec(len(charts), 1)
    for row, (name, (machine, start)) in enumerate(charts.items()):
        axes = figure.add_subplot(grid[row, 0])
        frame(axes, name)
        for job in range(jobs):
            color, alpha = PALETTE[job % len(PALETTE)], SHADES[job // len(PALETTE) % len(SHADES)]
            lefts, widths = start[job].tolist(), duration[job].tolist()
            rows = machine[job].tolist()
            axes.barh(
                rows,
                widths,
                left=lefts,
                height=0.84,
                color=color,
                alpha=alpha,
                edgecolor="white",
                linewidth=0.6,
            )
            for y, left, width in zip(rows, lefts, widths, strict=True):
                if width > end * 0.012 * len(str(job + 1)):
                    text = {"ha": "center", "va": "center", "fontsize": 7, "color": "white"}
                    axes.text(left + width / 2, y, str(job + 1), **text)
        axes.axvline(bound, color="black", linewidth=1.2, linestyle="--", label=f"{bound_name}, {bound:g}")
        axes.set(xlim=(0, end * 1.02), ylim=(machines - 0.4, -0.6))
        axes.set_yticks(range(machines), [f"machine {number + 1}" for number in range(machines)])
        axes.grid(False, axis="y")
        if row == 0:
            axes.legend(loc="lower right", **LEGEND)
        if row == len(charts) - 1:
            axes.set_xlabel("time; the number is the job", fontsize=8)
    save(figure, file)
