"""Resampling of readings to a regular grid: short gaps are interpolated, long ones cut the series."""

import math
from typing import NamedTuple

import numpy as np

from torchstone.data.series.calendar import format_duration
from torchstone.data.series.time_csv import Readings
from torchstone.errors import BadInput

MAX_FILLED_STEPS = 6  # longest gap that is filled in, in steps


class Grid(NamedTuple):
    """Readings at times a `step` apart, in `segments` (first, last) without a gap."""

    step: float
    times: np.ndarray  # (points,) float64
    values: np.ndarray  # (points, columns) float64
    is_filled: np.ndarray  # (points, columns) bool: interpolated over a gap, which nobody measured
    segments: tuple[tuple[int, int], ...]
    description: str


def resample(readings: Readings, step: float | None = None) -> Grid:
    """Readings on a regular grid; its description says what was done to them.

    Args:
        step: of the grid, by default the median step.

    Raises:
        BadInput: fewer than three times, or no segment of two points.
    """
    times, name = readings.times, readings.name
    if len(times) < 3:
        raise BadInput(f"{name} is too short: {len(times)} rows, give hundreds")
    steps = np.diff(times)
    step = float(np.median(steps)) if step is None else step
    uneven = int((np.abs(steps / step - 1) > 1e-6).sum())
    # cut first at gaps between rows, so that no grid is much longer than the file
    pieces = np.split(np.arange(len(times)), np.flatnonzero(steps > (MAX_FILLED_STEPS + 0.5) * step) + 1)
    grids = []
    for piece in pieces:
        grid = times[piece[0]] + step * np.arange(
            math.floor((times[piece[-1]] - times[piece[0]]) / step + 1e-6) + 1
        )
        columns = [_interpolate(grid, times[piece], v, step) for v in readings.values[piece].T]
        values = np.stack([column for column, _ in columns], 1)
        in_gap = np.stack([in_gap for _, in_gap in columns], 1)
        known = np.flatnonzero(~np.isnan(values).any(1))
        for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            if len(run):
                grids.append((grid[run], values[run], in_gap[run]))
    if not grids or max(len(grid) for grid, _, _ in grids) < 2:
        raise BadInput(f"{name} has no two readings less than {MAX_FILLED_STEPS} steps apart: give more")
    ends = np.cumsum([len(grid) for grid, _, _ in grids]).tolist()
    segments = tuple(zip([0, *ends[:-1]], ends, strict=True))
    notes = [readings.description] if readings.description else []
    complete = np.flatnonzero(~np.isnan(readings.values).any(1))
    for count, where in (
        (int(complete[0]) if len(complete) else 0, "first"),
        (len(times) - 1 - int(complete[-1]) if len(complete) else 0, "last"),
    ):
        if count:
            notes.append(f"the {where} {count} row{'s' * (count > 1)} left out, where readings are missing")
    notes.append(f"{ends[-1]:,} points, one every {format_duration(step, readings.unit)}")
    if uneven:
        notes.append(f"{uneven} of {len(steps):,} steps were irregular and were resampled")
    times, values, is_filled = (np.concatenate(each) for each in zip(*grids, strict=True))
    if filled := int(is_filled.any(1).sum()):
        points = f"{filled} point{'s' * (filled > 1)}"
        notes.append(f"gaps of up to {MAX_FILLED_STEPS} steps filled in ({points}, no targets)")
    if len(segments) > 1:
        notes.append(f"longer gaps cut it into {len(segments)} segments")
    return Grid(step, times, values, is_filled, segments, ", ".join(notes))


def _interpolate(grid, times, values, step) -> tuple[np.ndarray, np.ndarray]:
    """Values on the grid, NaN in long gaps; and True where a point lies in a gap that was filled in."""
    known = ~np.isnan(values)
    times, values = times[known], values[known]
    if not len(times):
        return np.full(len(grid), np.nan), np.zeros(len(grid), dtype=bool)
    right = np.clip(np.searchsorted(times, grid), 0, len(times) - 1)
    left = np.maximum(right - 1, 0)
    exact = np.abs(times[right] - grid) < 1e-6 * step
    gap = np.where(exact, 0.0, times[right] - times[left])
    outside = (grid < times[0] - 1e-6 * step) | (grid > times[-1] + 1e-6 * step)
    missing = outside | (gap > (MAX_FILLED_STEPS + 0.5) * step)
    return np.where(missing, np.nan, np.interp(grid, times, values)), ~missing & (gap > 1.5 * step)
