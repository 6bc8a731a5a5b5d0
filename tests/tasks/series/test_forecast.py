"""Forecasts: what is read and told, how it is judged, what it is judged beside, and its use from files."""

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from cli_helpers import run_cli
from PIL import Image
from torch import nn

import torchstone as ts
from torchstone import api
from torchstone.data.series.dataset import cut
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.parts.series.quantile_loss import pinball
from torchstone.systems.recurrent.gru import CELL
from torchstone.tasks.recurrent import Recipe
from torchstone.tasks.series import forecast, forecaster
from torchstone.tasks.series.forecaster import Outlook

LEVELS = (0.1, 0.5, 0.9)
SMALL = Recipe(
    use="forecast", variant="gru", hidden=8, layers=1, bidirectional=False, path="fast", length=24,
    patch=4, horizon=6, batch_size=16, steps=60, lr=1e-2,
)  # fmt: skip


def how(**changes):
    given = {"context": 12, "horizon": 5, "patch": 3, "ahead": "direct", "together": False}
    return Outlook(**{**given, "quantiles": LEVELS, **changes})


class Telling(nn.Module):
    """In place of a network: `tell` of what it is given, and no state."""

    def __init__(self, tell):
        super().__init__()
        self.weight, self.tell, self.seen = nn.Parameter(torch.zeros(1)), tell, []

    def forward(self, x):
        self.seen.append(x)
        return self.tell(x)

    def step(self, x, state=None):
        return self(x), (torch.zeros(1, len(x), 1),)


def hourly(folder, rows=400, names=("load",), name="s.csv", noise=0.1, period=24, step=3600):
    """A file of noisy waves; a few rows are missing."""
    random = np.random.default_rng(len(names))
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    file = folder / name
    with file.open("w") as opened:
        opened.write(f"time,{','.join(names)}\n")
        for i in range(rows):
            if i in (50, 51):
                continue
            wave = [np.sin(2 * np.pi * (i / period + j / 7)) for j in range(len(names))]
            cells = [f"{20 + 5 * (w + noise * random.normal()):.4f}" for w in wave]
            when = (begin + timedelta(seconds=step * i)).strftime("%Y-%m-%d %H:%M:%S")
            opened.write(f"{when},{','.join(cells)}\n")
    return file


def test_the_network_reads_patches_in_order_with_the_last_value_taken_off():
    past = torch.randn(2, 12, 4)
    net = Telling(lambda x: torch.zeros(len(x), 15))
    told = forecaster.direct(net, how(), past)
    (seen,) = net.seen
    assert seen.shape == (8, 4, 3)  # a row a window and column; four patches of three points
    for row in range(2):
        for column in range(4):
            x = past[row, :, column] - past[row, -1, column]
            assert torch.equal(seen[4 * row + column].flatten(), x)
    # nothing told is no change
    assert torch.equal(told, past[:, -1:, :, None].expand(2, 5, 4, 3))


@pytest.mark.parametrize("together", [False, True])
def test_every_number_told_finds_its_window_step_column_and_quantile(together):
    width = 4 if together else 1
    told = torch.randn(2 if together else 8, 5, width, 3)
    found = forecaster.direct(
        Telling(lambda x: told.flatten(1)), how(together=together), torch.zeros(2, 12, 4)
    )
    assert found.shape == (2, 5, 4, 3)
    for row in range(2):
        for column in range(4):
            rows = told[row, :, column] if together else told[4 * row + column, :, 0]
            assert torch.equal(found[row, :, column], rows)
    assert how(together=together).sizes(4) == ((12, 60) if together else (3, 15))
    assert how(ahead="steps", patch=1, together=together).sizes(4) == ((4, 12) if together else (1, 3))


def test_the_loss_is_the_quantile_loss_of_what_is_told():
    past, future, told = torch.randn(6, 12, 2), torch.randn(6, 5, 2), torch.randn(12, 15)
    found = forecaster.loss(Telling(lambda x: told), how(), past, future)
    total = 0.0
    for row in range(6):
        for column in range(2):
            for step in range(5):
                for i, q in enumerate(LEVELS):
                    point = float(told[2 * row + column, 3 * step + i] + past[row, -1, column])
                    miss = float(future[row, step, column]) - point
                    total += max(q * miss, (q - 1) * miss)
    assert float(found) == pytest.approx(total / (6 * 2 * 5 * 3), rel=1e-5)


def test_step_by_step_each_point_is_told_from_those_before_it():
    """The loss is that of changes from one point to the next; and no point sees a later one."""
    past, future = torch.randn(3, 12, 2), torch.randn(3, 5, 2)
    net = Telling(lambda x: torch.zeros(*x.shape[:2], 3))
    found = forecaster.loss(net, how(ahead="steps", patch=1), past, future)
    whole = torch.cat([past, future], 1)
    before, after = whole[:, :-1], whole[:, 1:]
    wanted = pinball(before[..., None].expand(-1, -1, -1, 3), after, LEVELS).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    (seen,) = net.seen
    assert seen.shape == (6, 16, 1)
    assert torch.equal(seen[1, :, 0], before[0, :, 1] - past[0, -1, 1])


def test_futures_drawn_step_by_step_have_the_quantiles_of_a_random_walk():
    """Steps of −1, 0 or 1, by straight lines between: after n steps the spread is √n of one."""
    steps = how(ahead="steps", patch=1, horizon=16)
    net = Telling(lambda x: torch.tensor([-1.0, 0.0, 1.0]).expand(*x.shape[:2], 3))
    past = torch.zeros(200, 12, 1)
    past[:, -1] = 7.0
    told = forecaster.told(net, steps, past)
    assert told.shape == (200, 16, 1, 3)
    mean = told.mean((0, 2))
    print(mean[[0, 3, 15]].tolist())
    spread = mean[:, 2] - mean[:, 0]
    assert (mean[:, 1] - 7).abs().max() < 0.15
    assert spread[0] == pytest.approx(2.0, abs=0.1)
    # one step has the variance Σ over pieces of (b³ − a³) / 3 · slope²: 0.5208
    deviation = 1.25**3 / 3 * 0.8
    assert spread[15] == pytest.approx(2 * 1.2816 * (16 * deviation) ** 0.5, rel=0.05)
    assert torch.equal(told, forecaster.told(net, steps, past))  # the same draws each time
    assert forecaster.told(net, steps, past[:4], 40).shape == (4, 40, 1, 3)


def test_quantiles_that_cross_are_put_in_order():
    told = forecaster.told(Telling(lambda x: torch.randn(len(x), 15)), how(), torch.randn(9, 12, 1))
    assert (told.diff(dim=-1) >= 0).all()
    with pytest.raises(BadInput, match="tells 5 steps at once, not 6"):
        forecaster.told(Telling(lambda x: torch.randn(len(x), 15)), how(), torch.randn(9, 12, 1), 6)


def test_errors_are_means_over_windows_and_columns_at_each_step():
    values = torch.randn(300, 2)
    starts = torch.arange(0, 250, 3)
    net = Telling(lambda x: torch.tensor([-1.0, 0.5, 1.0]).repeat(len(x), 5))
    found = forecaster.errors(net, how(season=4), values, starts, forecaster.naive(how(season=4)))
    for step in range(5):
        sums = dict.fromkeys(found, 0.0)
        for start in starts.tolist():
            for column in range(2):
                x = values[start : start + 12, column]
                y = float(values[start + 12 + step, column])
                last, earlier = float(x[-1]), float(x[12 - 4 + step % 4])
                points = {"": last + 0.5, "repeat_": last, "seasonal_": earlier}
                for name, point in points.items():
                    sums[f"{name}mse"] += (y - point) ** 2
                    sums[f"{name}mae"] += abs(y - point)
                sums["coverage"] += last - 1 <= y <= last + 1
                for q, point in zip(LEVELS, (last - 1, last + 0.5, last + 1), strict=True):
                    sums["loss"] += max(q * (y - point), (q - 1) * (y - point)) / 3
        for name, total in sums.items():
            assert float(found[name][step]) == pytest.approx(total / (2 * len(starts)), rel=1e-4), name
    assert "seasonal" not in forecaster.naive(how(season=0))


def test_judging_in_pieces_is_judging_at_once(monkeypatch):
    values, starts = torch.randn(300, 2), torch.arange(101)
    net = Telling(lambda x: x.reshape(len(x), -1).sum(1, keepdim=True).expand(-1, 15))
    whole = forecaster.errors(net, how(), values, starts)
    monkeypatch.setattr(forecaster, "NUMBERS", 7 * 5 * 2 * 3)
    pieces = forecaster.errors(net, how(), values, starts)
    for name in whole:
        assert torch.allclose(whole[name], pieces[name]), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantiles": (0.5, 0.1)}, "quantiles rise"),
        ({"quantiles": (0.0, 0.5)}, "quantiles rise"),
        ({"quantiles": (0.5, 1.0)}, "quantiles rise"),
        ({"quantiles": (0.1, 0.9)}, "must be 0.5"),
        ({"quantiles": (0.5,)}, "must be 0.5"),
        ({"quantiles": ()}, "quantiles rise"),
        ({"patch": 5}, "a multiple of patch"),
        ({"horizon": 0}, "multiple of patch"),
        ({"ahead": "steps"}, "goes with patch 1"),
    ],
)
def test_settings_that_do_not_go_together(changes, said):
    with pytest.raises(BadInput, match=said) as caught:
        how(**changes)
    print(caught.value)


def test_a_network_that_sees_the_future_is_refused(tmp_path):
    recipe = replace(SMALL, data=str(hourly(tmp_path)), ahead="steps", patch=1, bidirectional=True)
    with pytest.raises(BadInput, match="cannot be bidirectional"):
        forecast.build(recipe, CELL)


def test_seasons_are_days_weeks_and_years(tmp_path):
    def season(context, **file):
        series = forecast.load_series(hourly(tmp_path, rows=100, **file))
        return forecast.season(series, context)

    assert season(24) == 24
    assert season(23) == 0  # does not fit
    assert season(24, step=86_400) == 7
    assert season(96, step=1_800) == 48
    assert season(96, step=1_000) == 0
    file = tmp_path / "months.csv"
    months = [f"{2000 + i // 12}-{i % 12 + 1:02},{i % 12 + i / 50}" for i in range(60)]
    file.write_text("month,v\n" + "\n".join(months) + "\n")
    assert forecast.season(forecast.load_series(file), 12) == 12


@pytest.mark.parametrize("ahead", ["direct", "steps"])
def test_it_learns_a_wave_and_its_band_holds_what_it_says(tmp_path, ahead):
    patch, steps = (4, 150) if ahead == "direct" else (1, 100)
    recipe = replace(SMALL, data=str(hourly(tmp_path, 900)), ahead=ahead, patch=patch, steps=steps)
    run = forecast.build(replace(recipe, hidden=16), CELL)
    fit(run, intervals=Intervals(evaluate=steps), quiet=True)
    found = {k.removeprefix("test/"): v for k, v in run.results.items() if k.startswith("test/")}
    print({name: round(value, 3) for name, value in found.items()})
    assert found["mse"] < 0.4 * found["repeat_mse"]
    assert found["linear_mse"] < 0.25 * found["repeat_mse"]
    assert found["seasonal_mse"] < 0.1
    assert 0.6 < found["coverage"] < 0.97
    run.report(tmp_path / "pictures")
    for name in ("errors.png", "forecasts.png"):
        assert np.asarray(Image.open(tmp_path / "pictures" / name)).std() > 1


def test_scale_and_windows_come_from_the_part_for_training_alone(tmp_path):
    """Held-out values may be anything: the network is trained on the same numbers, to the bit."""
    file = hourly(tmp_path)
    plain = forecast.build(replace(SMALL, data=str(file)), CELL)
    lines = file.read_text().splitlines()
    held_out = round(0.7 * 400) + 2
    file.write_text("\n".join([*lines[:held_out], *(f"{x}999" for x in lines[held_out:])]) + "\n")
    changed = forecast.build(replace(SMALL, data=str(file)), CELL)
    assert plain.metadata["mean"] == changed.metadata["mean"]
    assert plain.metadata["std"] == changed.metadata["std"]
    for _ in range(40):
        for ours, theirs in zip(next(plain.stream), next(changed.stream), strict=True):
            assert torch.equal(ours, theirs)
    assert changed.test is not None
    assert changed.test()["repeat_mse"] != plain.test()["repeat_mse"]
    trained = plain.stream.values[:280]
    assert float(trained.mean()) == pytest.approx(0, abs=1e-5)
    assert float(trained.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_both_networks_and_the_stream_go_on_where_they_stood(tmp_path):
    recipe = replace(SMALL, data=str(hourly(tmp_path)), dropout=0.3, ema=0.9)

    def after(run, steps):
        for _ in range(steps):
            run.update(next(run.stream))
        return run

    torch.manual_seed(1)
    half = after(forecast.build(recipe, CELL), 4)
    kept = {name: item.state_dict() for name, item in half.state.items()}
    kept = torch.load(_saved(kept, tmp_path), weights_only=True)
    random = torch.get_rng_state()
    whole = after(half, 5)
    again = forecast.build(recipe, CELL)
    for name, item in again.state.items():
        item.load_state_dict(kept[name])
    torch.set_rng_state(random)
    after(again, 5)
    for name in ("model", "ema", "linear_model", "linear_ema"):
        ours, theirs = (run.state[name].state_dict() for run in (whole, again))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert whole.stream.state_dict() == again.stream.state_dict() == {"position": 9 * 16}


def _saved(state, folder):
    torch.save(state, folder / "state.pt")
    return folder / "state.pt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecast")
    file = hourly(folder, names=("load", "heat"))
    fields = {"hidden": 8, "length": 24, "patch": 4, "horizon": 12, "steps": 30, "batch": 16}
    ts.train("gru/forecast", data=str(file), out=folder / "run", quiet=True, **fields)
    return folder


def test_a_run_states_all_that_it_is_judged_beside(trained):
    result = json.loads((trained / "run" / "result.json").read_text())
    names = {f"test/{kind}mse" for kind in ("", "linear_", "repeat_", "seasonal_")}
    assert names | {"test/loss", "test/coverage", "test/mae"} <= result["metrics"].keys()
    assert "2 columns" in result["data"]
    assert "filled in (2 points)" in result["data"]
    pictures = {file.name for file in (trained / "run" / "pictures").iterdir()}
    assert {"errors.png", "forecasts.png", "curves.png"} <= pictures
    measured = ts.evaluate(trained / "run")
    for name in ("loss", "mse", "mae", "coverage", "repeat_mse", "seasonal_mae"):
        assert measured[name] == pytest.approx(result["metrics"][f"test/{name}"], rel=1e-5)


def test_predict_prints_the_forecast_and_draws_its_band(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_cli(capsys, "predict", trained / "run", trained / "s.csv", "--horizon", "5")
    print(out)
    assert code == 0
    lines = out.splitlines()
    assert "quantiles 0.1 to 0.9" in lines[0]
    assert lines[1].split() == ["time", "load", "heat"]
    assert [line[:16] for line in lines[2:7]] == [f"2024-01-17 {h}:00" for h in range(16, 21)]
    assert lines[7] == "picture: s-forecast.png"
    assert np.asarray(Image.open(tmp_path / "s-forecast.png")).std() > 1
    assert [f.name for f in tmp_path.iterdir()] == ["s-forecast.png"]


def test_predict_gives_values_in_the_file_s_own_units(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (answer,) = ts.predict(trained / "run", [trained / "s.csv"], out=tmp_path / "f.csv")
    told = answer["quantiles"]["load"]
    assert list(told) == ["0.1", "0.5", "0.9"]
    assert len(told["0.5"]) == len(answer["times"]) == 12
    for low, middle, high in zip(*told.values(), strict=True):
        assert 5 < low <= middle <= high < 35  # waves of 20 ± 5
    with (tmp_path / "f.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert [row["time"] for row in rows] == answer["times"]
    assert [float(row["heat 0.9"]) for row in rows] == answer["quantiles"]["heat"]["0.9"]


def test_predict_is_the_model_told_the_end_of_the_file(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (answer,) = ts.predict(trained / "run", [trained / "s.csv"])
    model = ts.load(trained / "run")
    series = forecast.load_series(trained / "s.csv")
    mean, std = series.scale()
    start = torch.tensor([len(series.values) - 24])
    past, _ = cut(((series.values - mean) / std).float(), start, 24, 0)
    with torch.no_grad():
        told = forecaster.direct(model, how(context=24, patch=4, horizon=12), past)[0].sort(-1).values
    wanted = told.double() * std[:, None] + mean[:, None]
    ours = torch.tensor([list(q.values()) for q in answer["quantiles"].values()]).movedim(-1, 0)
    assert torch.allclose(ours.double(), wanted, atol=1e-4)


def test_a_file_that_does_not_fit_is_one_line(trained, capsys, tmp_path):
    run = trained / "run"
    both = ("load", "heat")

    def assert_rejected(match, file, *options):
        code, out, err = run_cli(capsys, "predict", run, file, *options)
        assert (code, out) == (2, "")
        assert match in err
        assert err.count("\n") == 1

    assert_rejected("tells 12 steps at once, not 13", trained / "s.csv", "--horizon", "13")
    assert_rejected("has no column 'load'", hourly(tmp_path, name="a.csv", names=("x", "heat")))
    assert_rejected("a point every 30 min", hourly(tmp_path, name="b.csv", names=both, step=1800))
    assert_rejected("looks back on 24 (1 day)", hourly(tmp_path, rows=20, name="c.csv", names=both))
    assert_rejected("does not exist", tmp_path / "none.csv")
    assert_rejected(".png or .csv", trained / "s.csv", "--out", tmp_path / "f.jpg")
    assert_rejected("no folder", trained / "s.csv", "--out", tmp_path / "no" / "f.png")
    assert_rejected("leave --out out", trained / "s.csv", trained / "s.csv", "--out", tmp_path / "f.png")
    assert not (tmp_path / "f.png").exists()
    assert_rejected("--horizon", trained / "s.csv", "--horizon", "0")
    with pytest.raises(BadInput, match="has nothing to sample"):
        api.sample(run)
