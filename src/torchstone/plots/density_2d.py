"""Pictures of a density over the plane: where it is high, and what is drawn from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.plots.canvas import canvas, plain, save

Rows = Float[Tensor, "count numbers"]

SIDE = 180  # of a picture, in pixels
MARGIN = 0.15  # around the data, as a share of what they span
DOTS = 3000  # that are drawn
MAP = "magma"


def frame_of(rows: Rows) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) around all of the rows."""
    low, high = rows.amin(0).cpu(), rows.amax(0).cpu()
    by = MARGIN * (high - low)
    (left, bottom), (right, top) = (low - by).tolist(), (high + by).tolist()
    return left, right, bottom, top


def grid(frame: Sequence[float], side: int) -> Float[Tensor, "places 2"]:
    """The middles of `side` × `side` cells, row by row from the bottom."""
    left, right, bottom, top = frame
    step = (torch.arange(side) + 0.5) / side
    x, y = left + step * (right - left), bottom + step * (top - bottom)
    return torch.stack([x.repeat(side), y.repeat_interleave(side)], 1)


@torch.no_grad()
def heights(flow: Any, frame: Sequence[float], side: int) -> Float[Tensor, "side side"]:
    """The density at each of `grid`, in evaluation mode, the bottom row first."""
    was_training, device = flow.training, next(flow.parameters()).device
    flow.eval()
    high = flow.log_prob(grid(frame, side).to(device)).exp().view(side, side).cpu()
    flow.train(was_training)
    return high


def dots(flow: Any, count: int, seed: int = 0) -> Rows:
    """Points of the flow, from the noise of `seed`.

    Raises:
        NotFinite: one of them is NaN or infinite.
    """
    was_training = flow.training
    points = flow.eval().sample(count, seed=seed)
    flow.train(was_training)
    return points.cpu()


def painted(flow: Any, rows: Rows) -> UInt8[Tensor, "2 3 side side"]:
    """Two pictures: the density, and points drawn from it, in the frame of `rows`."""
    frame = frame_of(rows)
    points = dots(flow, DOTS).numpy()
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=SIDE, range=(frame[2:], frame[:2]))
    maps = [heights(flow, frame, SIDE).sqrt().numpy(), np.minimum(counts, 1)]
    return torch.stack([coloured(each) for each in maps])


def coloured(values: Float[np.ndarray, "height width"]) -> UInt8[Tensor, "3 height width"]:
    """Values from 0 to their largest as colours, the first row at the bottom."""
    import matplotlib

    share = np.flipud(values) / max(float(values.max()), 1e-12)
    colours = matplotlib.colormaps[MAP](share)[..., :3]
    return torch.from_numpy((colours * 255).round().astype(np.uint8)).permute(2, 0, 1)


def portrait(flow: Any, rows: Rows, names: Sequence[str], file: str | Path) -> None:
    """Draws the data, the density, points drawn from it, and where a grid of noise comes to lie."""
    frame, points = frame_of(rows), dots(flow, DOTS)
    figure = canvas(13, 3.7)
    axes = figure.subplots(1, 4, sharex=True, sharey=True)
    for panel, title in zip(axes, ("data", "density", "samples", "noise, unfolded"), strict=True):
        panel.set_title(title, fontsize=10)
        panel.set_xlim(*frame[:2])
        panel.set_ylim(*frame[2:])
        panel.set_xlabel(plain(names[0], 24), fontsize=8)
        panel.tick_params(labelsize=7)
    axes[0].set_ylabel(plain(names[1], 24), fontsize=8)
    axes[0].scatter(*rows[:DOTS].cpu().T, s=2, alpha=0.4, linewidths=0, color="#0072B2")
    high = heights(flow, frame, SIDE).numpy()
    axes[1].imshow(high, extent=frame, origin="lower", aspect="auto", cmap=MAP)
    axes[2].scatter(*points.T, s=2, alpha=0.4, linewidths=0, color="#D55E00")
    for line in unfolded(flow):
        axes[3].plot(*line.T, color="0.3", linewidth=0.6)
    save(figure, file)


@torch.no_grad()
def unfolded(flow: Any, lines: int = 13, reach: float = 2.5) -> list[Float[np.ndarray, "places 2"]]:
    """Straight lines of the noise's plane, as the flow bends them."""
    was_training, device = flow.training, next(flow.parameters()).device
    flow.eval()
    along = torch.linspace(-reach, reach, 200)
    straight = [
        torch.stack([torch.full_like(along, float(at)), along], 1).flip(1 if across else ())
        for across in (False, True)
        for at in torch.linspace(-reach, reach, lines)
    ]
    bent = [flow.inverse(line.to(device))[0].cpu().numpy() for line in straight]
    flow.train(was_training)
    return bent
