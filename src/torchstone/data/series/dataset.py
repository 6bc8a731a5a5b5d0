"""Time series data sets: resampled to a regular grid, split in time, and batches of past and future."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from torchstone.data import download
from torchstone.data.identity import SPLITS, identified
from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.data.series.calendar import Calendar
from torchstone.data.series.resample import resample
from torchstone.data.series.time_csv import Readings, parse_csv, read_file
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import refuse_skip

# bundled: the file in the archive, the column to read, and its new name; sea temperature in °C, and one
# person's blood glucose in mg/dl
SAMPLES = (
    "bokeh-sampledata==2026.1",
    "f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f",
    12.8,
)
BUNDLED = {
    "sea": ("sea_surface_temperature", "temperature (celsius)", "temperature"),
    "glucose": ("CGM", "glucose", "glucose"),
}
SPLIT_PERCENTS = (70, 80)  # percent of the points at which train and val end; test is the rest
# Zhou et al. 2020, arXiv:2012.07436, section 5.1: 12, 4 and 4 months of 30 days
ETT = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
ETT_BORDERS = (8640, 11520, 14400)


@dataclass(frozen=True, eq=False)
class Series:
    """Points a `step` apart on the scale of `calendar`, in `segments` without a gap.

    Stretches and `parts` (train, val, test, consecutive) are spans (first, last) of points. Where a value is
    not `observed` it was filled in: it may be read, but is no target and in no metric.
    """

    name: str
    columns: tuple[str, ...]
    calendar: Calendar
    step: float
    times: Float64[Tensor, " points"]
    values: Float64[Tensor, "points columns"]
    observed: Bool[Tensor, "points columns"]
    segments: tuple[tuple[int, int], ...]
    parts: dict[str, tuple[int, int]]
    description: str

    @property
    def unit(self) -> str:
        return self.calendar.unit

    def scale(self) -> tuple[Float64[Tensor, " columns"], Float64[Tensor, " columns"]]:
        """Mean and standard deviation of the training split.

        Raises:
            BadInput: a column is constant there.
        """
        first, last = self.parts["train"]
        values = self.values[first:last]
        if (constant := (values.amax(0) == values.amin(0)).nonzero()).numel():
            column = self.columns[int(constant[0])]
            raise BadInput(
                f"{self.name}: {column} is constant in the training split, there is nothing to "
                "learn: leave the column out"
            )
        return values.mean(0), values.std(0, correction=0)

    def points(self, split: str) -> Float64[Tensor, "points numbers"]:
        """Times and values of a split."""
        first, last = self.parts[split]
        return torch.cat([self.times[first:last, None], self.values[first:last]], 1)

    def windows(self, split: str, context: int, horizon: int) -> Int64[Tensor, " windows"]:
        """First points of the windows of `context` points and the `horizon` after them.

        The horizon lies in the split; the context may reach back into the one before, since the past is
        known. No window spans a gap.

        Raises:
            BadInput: there is none.
        """
        first, last = self.parts[split]
        spans = [
            (max(begin, first - context), min(end, last) - context - horizon + 1)
            for begin, end in self.segments
        ]
        starts = [torch.arange(*each) for each in spans if each[0] < each[1]]
        if not starts:
            longest = max(end - begin for begin, end in self.segments)
            raise BadInput(
                f"{self.name} is too short: none of {last - first} {split} points (longest segment "
                f"{longest}) has {context} before it and is followed by {horizon}: give more data, "
                "or a smaller length or horizon"
            )
        return torch.cat(starts)


@identified(lambda series: {split: series.points(split) for split in SPLITS}, unit="points")
def load_series(spec: str | Path, columns: Sequence[str] = (), unit: str | None = None) -> Series:
    """Load the series `sea` or `glucose`, or the columns of a CSV file that has a time column.

    `FILE:A,B` reads two columns only; a folder means the one CSV file in it, or its ETTh1.csv. Points
    are resampled to a grid of the median step by linear interpolation; gaps of up to six steps are
    filled in this way, longer ones cut the series into segments; `description` says what was done.
    Splits are 70, 10 and 20 % of the points in time order; of ETTh1 and ETTh2 the 12, 4 and 4 months as
    published; the part `all` is all of them.

    Args:
        columns, unit: those of a model, see `load_readings`.

    Raises:
        BadInput: no such file; what `time_csv.read_file` rejects; too few points; a constant column.
    """
    readings = load_readings(str(spec), columns, unit)
    grid = resample(readings)
    points = len(grid.times)
    borders = (SPLIT_PERCENTS[0] * points // 100, SPLIT_PERCENTS[1] * points // 100, points)
    splitting = "split 70 : 10 : 20 in time"
    if (
        readings.columns == ETT
        and (readings.unit, grid.step) == ("seconds", 3600)
        and points >= ETT_BORDERS[2]
    ):
        borders, splitting = ETT_BORDERS, "12, 4 and 4 months, as published"
    if min(borders[0], borders[1] - borders[0], borders[2] - borders[1]) < 1:
        raise BadInput(f"{readings.name} is too short: {points} points, give hundreds")
    train, val, test = borders
    parts = {"train": (0, train), "val": (train, val), "test": (val, test)}
    width = f"{len(readings.columns)} columns, " * (len(readings.columns) > 1)
    sizes = " / ".join(f"{last - first} {part}" for part, (first, last) in parts.items())
    parts["all"] = (0, points)
    series = Series(
        name=readings.name,
        columns=readings.columns,
        calendar=readings.calendar,
        step=grid.step,
        times=torch.from_numpy(grid.times),
        values=torch.from_numpy(grid.values),
        observed=torch.from_numpy(~grid.is_filled),
        segments=grid.segments,
        parts=parts,
        description=f"{readings.name}: {width}{grid.description}; {sizes} ({splitting})",
    )
    series.scale()
    return series


def load_readings(spec: str, columns: Sequence[str] = (), unit: str | None = None) -> Readings:
    """The readings of the file or the bundled series that `spec` names.

    Args:
        columns: columns to read; a single one may have another name, if the file has only one.
        unit: of a model's times, see `time_csv.read_file`.
    """
    refuse_skip(spec)
    if spec in BUNDLED:
        file, column, new_name = BUNDLED[spec]
        with download.fetch_archive(*SAMPLES) as archive:
            packed = archive.read(f"bokeh_sampledata/_data/{file}.csv.gz")
        readings = parse_csv(gzip.decompress(packed).decode(), spec, [column], drop_duplicates=True)
        description = f"from the bokeh-sampledata 2026.1 archive, {readings.description}"
        return replace(readings, columns=(new_name,), description=description)
    path, names = Path(spec).expanduser(), ()
    if not path.exists() and ":" in spec:
        file, _, listed = spec.rpartition(":")
        path, names = Path(file).expanduser(), tuple(name.strip() for name in listed.split(","))
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        files = [f for f in files if f.name == "ETTh1.csv"] or files
        if len(files) != 1:
            raise BadInput(f"{path} holds {len(files)} CSV files: name the one to read")
        path = files[0]
    if not path.exists() and path.name == str(path):
        raise BadInput(f"no series or file {spec!r}: {did_you_mean(spec, BUNDLED)}, or a CSV file")
    if names:
        return read_file(path, names, unit=unit)
    return read_file(path, columns, allow_other_name=True, unit=unit)


class ForecastWindows:
    """Endless (past, future, observed): float32 (share, context, columns) and (share, horizon, columns), and
    for each point of both whether it was measured, bool (share, context + horizon, columns).

    Each epoch is a permutation of all windows fixed by `seed` and its number; `batch_size` counts those
    of all processes, and process `rank` takes its share. The position is the full state.

    Args:
        values: the series as the network reads it; batches are on its device.
        observed: where they were measured.
        starts: first points of the windows.
    """

    def __init__(
        self,
        values: Float[Tensor, "points columns"],
        observed: Bool[Tensor, "points columns"],
        starts: Int64[Tensor, " windows"],
        context: int,
        horizon: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch_size, rank, world_size)
        self.values, self.observed, self.starts = values, observed, starts
        self.context, self.horizon, self.batch_size = context, horizon, batch_size
        self.order = EpochSampler(len(starts), [(first, share)], seed, torch.device("cpu"))
        self.position = 0

    def __iter__(self) -> "ForecastWindows":
        return self

    def __next__(
        self,
    ) -> tuple[
        Float[Tensor, "share c columns"], Float[Tensor, "share h columns"], Bool[Tensor, "share both columns"]
    ]:
        starts = self.starts[self.order.index(self.position)]
        self.position += self.batch_size
        past, future = cut_windows(self.values, starts, self.context, self.horizon)
        return past, future, torch.cat(cut_windows(self.observed, starts, self.context, self.horizon), 1)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


def cut_windows(
    values: Shaped[Tensor, "points columns"], starts: Int64[Tensor, " rows"], context: int, horizon: int
) -> tuple[Shaped[Tensor, "rows context columns"], Shaped[Tensor, "rows horizon columns"]]:
    """The windows that begin at `starts`, each as past and future."""
    offsets = torch.arange(context + horizon)
    rows = values[(starts[:, None] + offsets).to(values.device)]
    return rows[:, :context], rows[:, context:]
