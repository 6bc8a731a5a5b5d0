"""Plots of a 2-D density: where it is high, and samples from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.parts.modes import eval_mode
from torchstone.plots.canvas import canvas, plain, save

Rows = Float[Tensor, "count numbers"]

RESOLUTION = 180  # pixels a side
MARGIN = 0.15  # around the data, as a fraction of their range
MAX_POINTS = 3000
COLORMAP = "magma"


def axis_limits(rows: Rows) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) around all of the rows."""
    low, high = rows.amin(0).cpu(), rows.amax(0).cpu()
    margin = MARGIN * (high - low)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return left, right, bottom, top


def cell_centers(limits: Sequence[float], side: int) -> Float[Tensor, "cells 2"]:
    """The centers of `side` × `side` cells, row by row from the bottom."""
    left, right, bottom, top = limits
    step = (torch.arange(side) + 0.5) / side
    x, y = left + step * (right - left), bottom + step * (top - bottom)
    return torch.stack([x.repeat(side), y.repeat_interleave(side)], 1)


@torch.no_grad()
def density_grid(flow: Any, limits: Sequence[float], side: int) -> Float[Tensor, "side side"]:
    """The density at each of `cell_centers`, in evaluation mode, the bottom row first."""
    device = next(flow.parameters()).device
    with eval_mode(flow):
        return flow.log_prob(cell_centers(limits, side).to(device)).exp().view(side, side).cpu()


def sample_points(flow: Any, count: int, seed: int = 0) -> Rows:
    """Samples of the flow, from the noise of `seed`.

    Raises:
        NotFinite: one of them is NaN or infinite.
    """
    with eval_mode(flow):
        return flow.sample(count, seed=seed).cpu()


def density_images(flow: Any, rows: Rows, cells: int = RESOLUTION) -> UInt8[Tensor, "2 3 side side"]:
    """Two images: the density, and samples from it, within the axis limits of `rows`.

    Args:
        cells: a side at which the density is computed; between them it is interpolated.
    """
    limits = axis_limits(rows)
    points = sample_points(flow, MAX_POINTS).numpy()
    bounds = (limits[2:], limits[:2])
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=RESOLUTION, range=bounds)
    density = density_grid(flow, limits, cells).sqrt()
    if cells != RESOLUTION:
        density = F.interpolate(density[None, None], (RESOLUTION, RESOLUTION), mode="bilinear")[0, 0]
    maps = [density.numpy(), np.minimum(counts, 1)]
    return torch.stack([colorize(each) for each in maps])


def colorize(values: Float[np.ndarray, "height width"]) -> UInt8[Tensor, "3 height width"]:
    """Values from 0 to their maximum as colors, the first row at the bottom."""
    import matplotlib

    scaled = np.flipud(values) / max(float(values.max()), 1e-12)
    colors = matplotlib.colormaps[COLORMAP](scaled)[..., :3]
    return torch.from_numpy((colors * 255).round().astype(np.uint8)).permute(2, 0, 1)


def plot_density(flow: Any, rows: Rows, names: Sequence[str], file: str | Path) -> None:
    """Plot the data, the density, samples from it, and the image of a grid of latent noise."""
    limits, points = axis_limits(rows), sample_points(flow, MAX_POINTS)
    figure = canvas(13, 3.7)
    axes = figure.subplots(1, 4, sharex=True, sharey=True)
    for panel, title in zip(axes, ("data", "density", "samples", "latent grid"), strict=True):
        panel.set_title(title, fontsize=10)
        panel.set_xlim(*limits[:2])
        panel.set_ylim(*limits[2:])
        panel.set_xlabel(plain(names[0], 24), fontsize=8)
        panel.tick_params(labelsize=7)
    axes[0].set_ylabel(plain(names[1], 24), fontsize=8)
    axes[0].scatter(*rows[:MAX_POINTS].cpu().T, s=2, alpha=0.4, linewidths=0, color="#0072B2")
    density = density_grid(flow, limits, RESOLUTION).numpy()
    axes[1].imshow(density, extent=limits, origin="lower", aspect="auto", cmap=COLORMAP)
    axes[2].scatter(*points.T, s=2, alpha=0.4, linewidths=0, color="#D55E00")
    for line in warped_grid(flow):
        axes[3].plot(*line.T, color="0.3", linewidth=0.6)
    save(figure, file)


@torch.no_grad()
def warped_grid(flow: Any, lines: int = 13, extent: float = 2.5) -> list[Float[np.ndarray, "points 2"]]:
    """Grid lines of the latent plane, mapped to data space by the flow."""
    device = next(flow.parameters()).device
    t = torch.linspace(-extent, extent, 200)
    straight = [
        torch.stack([torch.full_like(t, float(offset)), t], 1).flip(1 if is_horizontal else ())
        for is_horizontal in (False, True)
        for offset in torch.linspace(-extent, extent, lines)
    ]
    with eval_mode(flow):
        return [flow.inverse(line.to(device))[0].cpu().numpy() for line in straight]
