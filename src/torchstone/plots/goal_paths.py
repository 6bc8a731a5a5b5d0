"""Episodes that are after goals: paths in the plane, and how far from the goals they end."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, percent, plain, save

SHOWN = 12  # paths


def draw_goal_paths(
    achieved: Float[np.ndarray, "episode time goal"],
    desired: Float[np.ndarray, "episode goal"],
    success: Bool[np.ndarray, " episode"],
    file: str | Path,
    title: str,
) -> None:
    """Paths over the first two coordinates; where episodes end as seen from their goals; the distribution of
    the final distance.

    Args:
        achieved: in metres, from the first state to the last, the same length for all.
        success: whether an episode ends at its goal by the environment's own word.
    """
    final = achieved[:, -1] - desired
    distance = np.linalg.norm(final, axis=1) * 100
    figure = canvas(12.6, 4.4)
    figure.suptitle(plain(title, 110), fontsize=11, fontweight="bold")
    grid = figure.add_gridspec(1, 3)

    axes = figure.add_subplot(grid[0, 0])
    frame(axes, f"paths of {min(SHOWN, len(desired))} episodes, + the goals")
    for index, (path, goal) in enumerate(zip(achieved[:SHOWN], desired, strict=False)):
        color = PALETTE[index % len(PALETTE)]
        axes.plot(*path[:, :2].T * 100, color=color, linewidth=1)
        axes.plot(*goal[:2, None] * 100, color=color, marker="+", markersize=10, markeredgewidth=1.6)
        axes.plot(*path[-1:, :2].T * 100, color=color, marker="o", markersize=4)
    axes.set(xlabel="x in cm", ylabel="y in cm", aspect="equal")

    axes = figure.add_subplot(grid[0, 1])
    frame(axes, f"ends of {len(desired)} episodes, from the goals")
    for chosen, color, name in ((success, PALETTE[2], "success"), (~success, PALETTE[1], "failure")):
        label = f"{name}: {int(chosen.sum())}"
        axes.plot(*final[chosen, :2].T * 100, "o", color=color, markersize=4, label=label)
    reach = max(1.15 * float(np.abs(final[:, :2]).max()) * 100, 0.1)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.set(xlabel="x - goal's x in cm", ylabel="y - goal's y in cm")
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.axvline(0, color="0.8", linewidth=0.8)
    axes.legend(**LEGEND)

    axes = figure.add_subplot(grid[0, 2])
    share = percent(float(success.mean()))
    frame(axes, f"median {np.median(distance):.2g} cm, success {share}")
    shares = np.arange(1, len(distance) + 1) / len(distance)
    axes.step(np.sort(distance), shares, where="post", color=PALETTE[0])
    axes.set(xlabel="final distance in cm", ylabel="share of episodes", ylim=(0, 1.02), xlim=(0, None))
    save(figure, file)
