"""Series: put on a grid, cut in time, scaled by the part for training alone, and windows of them."""

import numpy as np
import pytest
import torch

from torchstone.data.series.dataset import ForecastWindows, cut_windows, load_series
from torchstone.data.series.resample import MAX_FILLED_STEPS, resample
from torchstone.data.series.time_csv import parse_csv
from torchstone.errors import BadInput


def write_csv(folder, times, values, names="v", name="s.csv"):
    rows = np.column_stack([np.asarray(values, dtype=float)])
    lines = [f"time,{names}"] + [
        f"{time:.6f},{','.join('' if np.isnan(v) else f'{v:.9g}' for v in row)}"
        for time, row in zip(times, rows, strict=True)
    ]
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def test_resample_keeps_regular_series(tmp_path):
    values = np.random.default_rng(0).normal(size=(200, 2))
    series = load_series(write_csv(tmp_path, np.arange(200) * 0.25, values, "a,b"))
    assert series.step == 0.25
    assert series.segments == ((0, 200),)
    assert np.abs(series.values.numpy() - values).max() < 1e-8
    assert "resampled" not in series.description
    assert "gaps" not in series.description
    print(series.description)


def test_resample_interpolates_irregular_steps(tmp_path):
    random = np.random.default_rng(0)
    times = np.cumsum(random.choice([0.8, 1.0, 1.0, 1.2], size=300))
    series = load_series(write_csv(tmp_path, times, 3 * times + 1))
    print(series.description)
    grid = series.times.numpy()
    assert np.allclose(np.diff(grid), 1.0)
    assert np.abs(series.values[:, 0].numpy() - (3 * grid + 1)).max() < 1e-4
    assert "of 299 steps were irregular and were resampled" in series.description


def test_resample_fills_short_gaps_and_cuts_long_ones(tmp_path):
    times = np.arange(300.0)
    short, long = slice(50, 50 + MAX_FILLED_STEPS - 1), slice(150, 150 + MAX_FILLED_STEPS + 3)
    keep = np.ones(300, dtype=bool)
    keep[short] = keep[long] = False
    series = load_series(write_csv(tmp_path, times[keep], times[keep] ** 2))
    print(series.description)
    assert series.segments == ((0, 150), (150, 300 - MAX_FILLED_STEPS - 3))
    assert float(series.times[150]) == 150 + MAX_FILLED_STEPS + 3
    ends = 49.0, 50.0 + MAX_FILLED_STEPS - 1
    expected = np.interp(times[short], ends, [e**2 for e in ends])
    assert np.allclose(series.values[short, 0].numpy(), expected)
    assert f"filled in ({MAX_FILLED_STEPS - 1} points, no targets)" in series.description
    assert "into 2 segments" in series.description


def test_resample_treats_empty_cells_as_gaps(tmp_path):
    values = np.arange(400.0).reshape(200, 2)
    values[20:23, 0] = np.nan
    values[100 : 100 + MAX_FILLED_STEPS + 5, 1] = np.nan
    values[:2, 0] = np.nan  # nothing is known before the first reading
    series = load_series(write_csv(tmp_path, np.arange(200.0), values, "a,b"))
    print(series.description)
    assert series.segments == ((0, 98), (98, 200 - 2 - MAX_FILLED_STEPS - 5))
    assert series.values[18:21, 0].tolist() == [40, 42, 44]
    assert not series.values.isnan().any()


def test_resample_says_what_is_missing_at_both_ends(tmp_path):
    """A forecast begins where readings end, not where the rows do."""
    file = tmp_path / "s.csv"
    values = [np.nan] * 9 + list(range(50)) + [np.nan]
    file.write_text("time,v\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values)))
    grid = resample(parse_csv(file.read_text(), "s"))
    print(grid.description)
    assert (grid.times[0], grid.times[-1]) == (9, 58)
    assert "the first 9 rows left out, where readings are missing" in grid.description
    assert "the last 1 row left out" in grid.description


def test_resample_grid_no_longer_than_file(tmp_path):
    """Readings ages apart make no grid of all the steps between them, which no memory would hold."""
    times = np.concatenate([np.arange(100.0), 1e15 + np.arange(100.0)])
    grid = resample(parse_csv(write_csv(tmp_path, times, times % 7).read_text(), "t"))
    assert grid.step == 1
    assert len(grid.times) == 200
    assert len(grid.segments) == 2


def test_series_splits_are_consecutive(tmp_path):
    series = load_series(write_csv(tmp_path, np.arange(1000.0), np.sin(np.arange(1000))))
    assert series.parts == {
        "train": (0, 700), "val": (700, 800), "test": (800, 1000), "all": (0, 1000),
    }  # fmt: skip
    for part, (first, last) in series.parts.items():
        starts = series.windows(part, 30, 10)
        begin = 0 if part in ("train", "all") else first - 30
        assert starts.tolist() == list(range(begin, last - 40 + 1))  # the horizon is in the part
        past, future = cut_windows(series.times[:, None], starts, 30, 10)
        assert float(future.min()) >= (30 if begin == 0 else first)
        assert float(future.max()) == last - 1
        assert (future[:, 0] - past[:, -1] == 1).all()


def test_series_windows_do_not_span_gaps(tmp_path):
    times = np.concatenate([np.arange(100.0), 200 + np.arange(60.0), 300 + np.arange(300.0)])
    series = load_series(write_csv(tmp_path, times, np.cos(times)))
    assert len(series.segments) == 3
    for part in series.parts:
        starts = series.windows(part, 20, 10)
        past, future = cut_windows(series.times[:, None], starts, 20, 10)
        assert (torch.cat([past, future], 1).diff(dim=1) == 1).all()
    with pytest.raises(BadInput, match=r"too short: none of 46 val points \(longest segment 300\)"):
        series.windows("val", 20, 50)


def ett(folder, rows=14_500):
    names = "HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"
    values = np.random.default_rng(0).normal(size=(rows, 7)) * np.arange(1, 8)
    return write_csv(folder, 1.4e9 + 3600.0 * np.arange(rows), values, names, "ETTh1.csv")


def test_load_series_ett_published_split(tmp_path):
    """12, 4 and 4 months of 30 days; windows as counted by the published loader, none dropped."""
    ett(tmp_path, 14_400)  # the least that the split takes
    series = load_series(tmp_path)  # the folder it is in
    print(series.description)
    counts = {part: len(series.windows(part, 336, 96)) for part in ("train", "val", "test")}
    assert counts == {"train": 8640 - 336 - 96 + 1, "val": 2880 - 96 + 1, "test": 2880 - 96 + 1}
    assert int(series.windows("val", 336, 96)[0]) == 8640 - 336
    assert int(series.windows("test", 336, 96)[-1]) == 14_400 - 336 - 96
    other = load_series(f"{tmp_path / 'ETTh1.csv'}:OT,HUFL")
    assert other.columns == ("OT", "HUFL")
    assert "70 : 10 : 20" in other.description


def test_series_scale_from_training_split(tmp_path):
    """What is held out may be anything: neither scale nor training windows change by it."""
    values = np.random.default_rng(0).normal(size=500)
    plain = load_series(write_csv(tmp_path, np.arange(500.0), values))
    values[350:] = 1e6
    changed = load_series(write_csv(tmp_path, np.arange(500.0), values))
    for ours, theirs in zip(plain.scale(), changed.scale(), strict=True):
        assert torch.equal(ours, theirs)
    mean, std = plain.scale()
    first = plain.values[:350]
    assert torch.allclose((first - mean).mean(0), torch.zeros(1).double(), atol=1e-12)
    assert torch.allclose(((first - mean) / std).square().mean(0), torch.ones(1).double())
    for series in (plain, changed):
        past, future = cut_windows(series.values, series.windows("train", 20, 5), 20, 5)
        assert max(float(past.max()), float(future.max())) < 10


@pytest.mark.sweep
def test_load_series_bundled():
    sea = load_series("sea")
    print(sea.description)
    assert (len(sea.times), sea.step, sea.columns) == (19_226, 1800.0, ("temperature",))
    assert len(sea.segments) == 2
    assert "1 duplicate time " in sea.description
    glucose = load_series("glucose")
    print(glucose.description)
    assert (glucose.step, glucose.columns) == (300.0, ("glucose",))
    assert abs(float(glucose.values.mean()) - 137.4) < 1
    assert "3 duplicate times " in glucose.description
    assert 100 < len(glucose.segments) < 200


def test_forecast_windows_epoch_and_resume():
    values = torch.arange(60.0)[:, None]
    starts = torch.arange(40)

    def make(**share):
        return ForecastWindows(
            values, torch.ones_like(values, dtype=torch.bool), starts, 12, 4, 10, seed=3, **share
        )

    stream = make()
    begins = torch.cat([next(stream)[0][:, 0, 0] for _ in range(4)])
    assert sorted(begins.tolist()) == list(range(40))
    state = stream.state_dict()
    wanted = [next(stream) for _ in range(3)]
    again = make()
    again.load_state_dict(state)
    for past, future, _ in wanted:
        ours = next(again)
        assert torch.equal(ours[0], past)
        assert torch.equal(ours[1], future)
        assert torch.equal(future[:, 0], past[:, -1] + 1)
    halves = [make(rank=rank, world_size=2) for rank in (0, 1)]
    whole = next(make())[0]
    assert torch.equal(torch.cat([next(half)[0] for half in halves]), whole)
    with pytest.raises(BadInput, match="cannot be shared by 3"):
        make(rank=0, world_size=3)


@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        ([1, 2], [1, 2], "too short: 2 rows"),
        ([1, 2, 3], [1, 2, 3], "too short: 3 points"),
        (range(100), [5] * 100, "v is constant"),
        (range(100), [5] * 70 + [6] * 30, "v is constant in the training split"),
        (range(100), [np.nan] * 100, "no column of numbers to forecast"),
        (range(100), [1, *[np.nan] * 9] * 10, "no two readings"),
    ],
)
def test_load_series_rejects_unusable_series(tmp_path, times, values, message):
    with pytest.raises(BadInput, match=message) as caught:
        load_series(write_csv(tmp_path, np.array(times, dtype=float), values))
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_load_series_rejects_missing_data(tmp_path):
    with pytest.raises(BadInput, match="did you mean sea"):
        load_series("seas")
    with pytest.raises(BadInput, match="does not exist"):
        load_series(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="holds 0 CSV files"):
        load_series(tmp_path)
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path, np.arange(9.0), np.arange(9.0), name=name)
    with pytest.raises(BadInput, match="holds 2 CSV files"):
        load_series(tmp_path)
