"""Forecasts: input and output layout, errors, baselines, and the use from files."""

import csv
import json
import math
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
from torchstone.data.series.dataset import cut_windows
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.parts.series.dlinear import DLinear
from torchstone.parts.series.quantile_loss import pinball
from torchstone.runs.load import load_run
from torchstone.systems.recurrent import gru
from torchstone.systems.recurrent.gru import CELL
from torchstone.tasks.recurrent import Recipe
from torchstone.tasks.series import forecast, forecaster
from torchstone.tasks.series.forecaster import NETWORK, Calibration, ForecastConfig, ForecastSpec, Source

LEVELS = (0.1, 0.5, 0.9)
SMALL = replace_fields(
    Recipe(task="forecast", variant="gru", seq_len=24, batch_size=16, steps=60),
    {"hidden": 8, "layers": 1, "bidirectional": False, "implementation": "fused", "lr": 1e-2}
    | {"patch": 4, "horizon": 6},
)


def spec(context=12, season=0, **changes):
    config = ForecastConfig(horizon=5, patch=3, quantiles=LEVELS)
    return ForecastSpec(replace(config, **changes), context, season)


class FunctionModel(nn.Module):
    """A network that is a function of its input, without state; it records the inputs."""

    def __init__(self, function):
        super().__init__()
        self.weight, self.function, self.inputs = nn.Parameter(torch.zeros(1)), function, []

    def forward(self, x):
        self.inputs.append(x)
        return self.function(x)

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


def test_direct_reads_patches_relative_to_last_value():
    past = torch.randn(2, 12, 4)
    net = FunctionModel(lambda x: torch.zeros(len(x), 15))
    predicted = forecaster.direct(net, spec(), past)
    (inputs,) = net.inputs
    assert inputs.shape == (8, 4, 3)  # a row a window and column; four patches of three points
    for row in range(2):
        for column in range(4):
            x = past[row, :, column] - past[row, -1, column]
            assert torch.equal(inputs[4 * row + column].flatten(), x)
    # nothing predicted is no change
    assert torch.equal(predicted, past[:, -1:, :, None].expand(2, 5, 4, 3))


@pytest.mark.parametrize("multivariate", [False, True])
def test_direct_output_layout(multivariate):
    width = 4 if multivariate else 1
    predicted = torch.randn(2 if multivariate else 8, 5, width, 3)
    found = forecaster.direct(
        FunctionModel(lambda x: predicted.flatten(1)), spec(multivariate=multivariate), torch.zeros(2, 12, 4)
    )
    assert found.shape == (2, 5, 4, 3)
    for row in range(2):
        for column in range(4):
            rows = predicted[row, :, column] if multivariate else predicted[4 * row + column, :, 0]
            assert torch.equal(found[row, :, column], rows)
    assert spec(multivariate=multivariate).sizes(4) == ((12, 60) if multivariate else (3, 15))
    assert spec(forecast_mode="autoregressive", patch=1, multivariate=multivariate).sizes(4) == (
        (4, 12) if multivariate else (1, 3)
    )


def test_loss_is_quantile_loss():
    past, future, predicted = torch.randn(6, 12, 2), torch.randn(6, 5, 2), torch.randn(12, 15)
    found = forecaster.loss(FunctionModel(lambda x: predicted), spec(), past, future)
    total = 0.0
    for row in range(6):
        for column in range(2):
            for step in range(5):
                for i, q in enumerate(LEVELS):
                    point = float(predicted[2 * row + column, 3 * step + i] + past[row, -1, column])
                    miss = float(future[row, step, column]) - point
                    total += max(q * miss, (q - 1) * miss)
    assert float(found) == pytest.approx(total / (6 * 2 * 5 * 3), rel=1e-5)


def test_autoregressive_loss_is_one_step_ahead():
    """The loss is that of changes from one point to the next; and no point sees a later one."""
    past, future = torch.randn(3, 12, 2), torch.randn(3, 5, 2)
    net = FunctionModel(lambda x: torch.zeros(*x.shape[:2], 3))
    found = forecaster.loss(net, spec(forecast_mode="autoregressive", patch=1), past, future)
    whole = torch.cat([past, future], 1)
    before, after = whole[:, :-1], whole[:, 1:]
    wanted = pinball(before[..., None].expand(-1, -1, -1, 3), after, LEVELS).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    (inputs,) = net.inputs
    assert inputs.shape == (6, 16, 1)
    assert torch.equal(inputs[1, :, 0], before[0, :, 1] - past[0, -1, 1])


def test_autoregressive_quantiles_of_random_walk():
    """Steps of −1, 0 or 1, by straight lines between: after n steps the spread is √n of one."""
    walk = spec(forecast_mode="autoregressive", patch=1, horizon=16)
    net = FunctionModel(lambda x: torch.tensor([-1.0, 0.0, 1.0]).expand(*x.shape[:2], 3))
    past = torch.zeros(200, 12, 1)
    past[:, -1] = 7.0
    predicted = forecaster.predict_quantiles(net, walk, past)
    assert predicted.shape == (200, 16, 1, 3)
    mean = predicted.mean((0, 2))
    print(mean[[0, 3, 15]].tolist())
    spread = mean[:, 2] - mean[:, 0]
    assert (mean[:, 1] - 7).abs().max() < 0.15
    assert spread[0] == pytest.approx(2.0, abs=0.1)
    # one step has the variance Σ over pieces of (b³ − a³) / 3 · slope²: 0.5208
    deviation = 1.25**3 / 3 * 0.8
    assert spread[15] == pytest.approx(2 * 1.2816 * (16 * deviation) ** 0.5, rel=0.05)
    assert torch.equal(predicted, forecaster.predict_quantiles(net, walk, past))  # the same draws each time
    assert forecaster.predict_quantiles(net, walk, past[:4], 40).shape == (4, 40, 1, 3)


def test_predict_quantiles_sorts():
    predicted = forecaster.predict_quantiles(
        FunctionModel(lambda x: torch.randn(len(x), 15)), spec(), torch.randn(9, 12, 1)
    )
    assert (predicted.diff(dim=-1) >= 0).all()
    with pytest.raises(BadInput, match="predicts 5 steps at once, not 6"):
        forecaster.predict_quantiles(
            FunctionModel(lambda x: torch.randn(len(x), 15)), spec(), torch.randn(9, 12, 1), 6
        )


@pytest.mark.parametrize("mode", ["direct", "autoregressive"])
def test_predict_quantiles_is_in_evaluation_mode_and_gives_the_mode_back(mode):
    class Watched(FunctionModel):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    modes = []
    if mode == "direct":
        model, how = Watched(lambda x: torch.zeros(len(x), 15)), spec()
    else:
        model = Watched(lambda x: torch.zeros(*x.shape[:2], 3))
        how = spec(forecast_mode="autoregressive", patch=1)
    forecaster.predict_quantiles(model.train(), how, torch.zeros(2, 12, 1))
    assert modes
    assert not any(modes)
    assert model.training


def test_forecast_errors_are_means_per_step():
    values = torch.randn(300, 2)
    starts = torch.arange(0, 250, 3)
    net = FunctionModel(lambda x: torch.tensor([-1.0, 0.5, 1.0]).repeat(len(x), 5))
    found = forecaster.forecast_errors(
        net,
        spec(season=4),
        values,
        torch.ones_like(values, dtype=torch.bool),
        starts,
        forecaster.naive_baselines(spec(season=4)),
    )
    for step in range(5):
        sums = dict.fromkeys(found, 0.0)
        for start in starts.tolist():
            for column in range(2):
                x = values[start : start + 12, column]
                y = float(values[start + 12 + step, column])
                last, earlier = float(x[-1]), float(x[12 - 4 + step % 4])
                points = {"": last + 0.5, "persistence_": last, "seasonal_": earlier}
                for name, point in points.items():
                    sums[f"{name}mse"] += (y - point) ** 2
                    sums[f"{name}mae"] += abs(y - point)
                sums["coverage"] += last - 1 <= y <= last + 1
                for q, point in zip(LEVELS, (last - 1, last + 0.5, last + 1), strict=True):
                    sums["loss"] += max(q * (y - point), (q - 1) * (y - point)) / 3
        for name, total in sums.items():
            assert float(found[name][step]) == pytest.approx(total / (2 * len(starts)), rel=1e-4), name
    assert "seasonal" not in forecaster.naive_baselines(spec(season=0))


def test_forecast_errors_in_chunks(monkeypatch):
    values, starts = torch.randn(300, 2), torch.arange(101)
    observed = torch.rand(300, 2) < 0.9
    net = FunctionModel(lambda x: x.reshape(len(x), -1).sum(1, keepdim=True).expand(-1, 15))
    whole = forecaster.forecast_errors(net, spec(), values, observed, starts)
    monkeypatch.setattr(forecaster, "MAX_NUMBERS", 7 * 5 * 2 * 3)
    pieces = forecaster.forecast_errors(net, spec(), values, observed, starts)
    for name in whole:
        assert torch.allclose(whole[name], pieces[name]), name


@pytest.mark.parametrize("mode", ["direct", "autoregressive"])
def test_loss_and_errors_leave_filled_points_out(mode):
    """What was filled in may be anything: no loss, gradient or metric of a window changes by it."""
    config = spec(forecast_mode=mode, patch=3 if mode == "direct" else 1)
    observed = torch.ones(40, 2, dtype=torch.bool)
    observed[14] = observed[20, 1] = False
    values, starts = torch.randn(40, 2), torch.tensor([0])
    changed = torch.where(observed, values, 1e3)
    outputs = 15 if mode == "direct" else 3

    def measure(x):
        # a network that reads nothing: only the targets differ
        net = FunctionModel(lambda z: torch.ones(*z.shape[: 1 if mode == "direct" else 2], outputs))
        window = cut_windows(x, starts, 12, 5)
        seen = torch.cat(cut_windows(observed, starts, 12, 5), 1)
        loss = forecast.network_loss(net, [*window, seen], config)
        errors = forecaster.forecast_errors(net, config, x, observed, starts)
        return loss, errors

    (loss, errors), (other, others) = measure(values), measure(changed)
    print(float(loss["loss"]), int(loss["weight"]), [round(float(e), 3) for e in errors["mse"]])
    if mode == "direct":  # an autoregressive loss also predicts from each point
        assert float(loss["loss"]) == pytest.approx(float(other["loss"]))
    assert int(loss["weight"]) == (2 * 4 if mode == "direct" else 2 * 15)
    for name, error in errors.items():
        assert torch.isnan(error[2]), name  # nothing was observed there
        keep = [0, 1, 3, 4]
        assert torch.allclose(error[keep], others[name][keep]), name
    net = FunctionModel(lambda z: torch.ones(*z.shape[: 1 if mode == "direct" else 2], outputs))
    everything = forecaster.loss(net, config, *cut_windows(changed, starts, 12, 5))
    assert float(everything) > 2 * float(loss["loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantiles": (0.5, 0.1)}, "quantiles must rise"),
        ({"quantiles": (0.0, 0.5)}, "quantiles must rise"),
        ({"quantiles": (0.5, 1.0)}, "quantiles must rise"),
        ({"quantiles": (0.1, 0.9)}, "must be 0.5"),
        ({"quantiles": (0.5,)}, "must be 0.5"),
        ({"quantiles": ()}, "quantiles must rise"),
        ({"patch": 5}, "a multiple of patch"),
        ({"horizon": 0}, "multiple of patch"),
        ({"forecast_mode": "autoregressive"}, "needs patch 1"),
    ],
)
def test_forecast_spec_rejects_invalid_settings(changes, message):
    with pytest.raises(BadInput, match=message) as caught:
        spec(**changes)
    print(caught.value)


def test_build_rejects_bidirectional_autoregressive(tmp_path):
    fields = {"forecast_mode": "autoregressive", "patch": 1, "bidirectional": True}
    recipe = replace_fields(SMALL, {"data": str(hourly(tmp_path)), **fields})
    with pytest.raises(BadInput, match="cannot be bidirectional"):
        forecast.build(recipe, CELL)


def test_season_is_day_week_or_year(tmp_path):
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


@pytest.mark.parametrize("mode", ["direct", "autoregressive"])
@pytest.mark.sweep
def test_train_learns_wave_with_coverage(tmp_path, mode):
    patch, steps = (4, 150) if mode == "direct" else (1, 100)
    fields = {"forecast_mode": mode, "patch": patch, "steps": steps, "hidden": 16}
    recipe = replace_fields(SMALL, {"data": str(hourly(tmp_path, 900)), **fields})
    run = forecast.build(recipe, CELL)
    fit(run, intervals=Intervals(evaluate=steps), quiet=True)
    found = {k.removeprefix("test/"): v for k, v in run.results.items() if k.startswith("test/")}
    print({name: round(value, 3) for name, value in found.items()})
    assert found["mse"] < 0.4 * found["persistence_mse"]
    assert found["linear_mse"] < 0.25 * found["persistence_mse"]
    assert found["seasonal_mse"] < 0.1
    assert 0.6 < found["coverage"] < 0.97
    run.report(tmp_path / "pictures")
    for name in ("errors.png", "forecasts.png"):
        assert np.asarray(Image.open(tmp_path / "pictures" / name)).std() > 1


def test_build_scales_by_training_split(tmp_path):
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
    assert changed.test()["persistence_mse"] != plain.test()["persistence_mse"]
    trained = plain.stream.values[:280]
    assert float(trained.mean()) == pytest.approx(0, abs=1e-5)
    assert float(trained.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_windows_obey_the_seed(tmp_path):
    data = str(hourly(tmp_path))
    one, again, other = (
        next(forecast.build(replace(SMALL, data=data, seed=seed), CELL).stream) for seed in (3, 3, 4)
    )
    for ours, same, different in zip(one, again, other, strict=True):
        assert torch.equal(ours, same)
        assert ours.float().std() == 0 or not torch.equal(ours, different)
    assert not torch.equal(one[0], other[0])


def test_joint_update_resumes(tmp_path):
    recipe = replace_fields(SMALL, {"data": str(hourly(tmp_path)), "dropout": 0.3, "ema_decay": 0.9})

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
    fields = {"hidden": 8, "seq_len": 24, "patch": 4, "horizon": 12, "steps": 30, "batch_size": 16}
    ts.train("gru/forecast", data=str(file), out=folder / "run", quiet=True, **fields)
    return folder


def test_run_reports_baselines(trained):
    result = json.loads((trained / "run" / "result.json").read_text())
    names = {f"test/{kind}mse" for kind in ("", "linear_", "persistence_", "seasonal_")}
    assert names | {"test/loss", "test/coverage", "test/mae"} <= result["metrics"].keys()
    assert "2 columns" in result["data"]
    assert "filled in (2 points" in result["data"]
    pictures = {file.name for file in (trained / "run" / "pictures").iterdir()}
    assert {"errors.png", "forecasts.png", "curves.png"} <= pictures
    measured = ts.evaluate(trained / "run")
    for name in ("loss", "mse", "mae", "coverage", "persistence_mse", "seasonal_mae"):
        assert measured[name] == pytest.approx(result["metrics"][f"test/{name}"], rel=1e-5)


def test_predict_prints_table_and_plots_band(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_cli(capsys, "predict", trained / "run", trained / "s.csv", "--horizon", "5")
    print(out)
    assert code == 0
    lines = out.splitlines()
    assert "quantiles 0.1 to 0.9" in lines[0]
    assert lines[1].split() == ["time", "load", "heat"]
    assert [line[:16] for line in lines[2:7]] == [f"2024-01-17 {h}:00" for h in range(16, 21)]
    # so few steps do not beat the day before
    assert lines[7].startswith("the forecast is that of the seasonal baseline: the network was not better")
    assert lines[8] == "picture: s-forecast.png"
    assert np.asarray(Image.open(tmp_path / "s-forecast.png")).std() > 1
    assert [f.name for f in tmp_path.iterdir()] == ["s-forecast.png"]


def test_predict_in_original_units(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (answer,) = ts.predict(trained / "run", [trained / "s.csv"], out=tmp_path / "f.csv")
    predicted = answer["quantiles"]["load"]
    assert list(predicted) == ["0.1", "0.5", "0.9"]
    assert len(predicted["0.5"]) == len(answer["times"]) == 12
    for low, middle, high in zip(*predicted.values(), strict=True):
        assert 5 < low <= middle <= high < 35  # waves of 20 ± 5
    with (tmp_path / "f.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert [row["time"] for row in rows] == answer["times"]
    assert [float(row["heat 0.9"]) for row in rows] == answer["quantiles"]["heat"]["0.9"]


def last_window(folder):
    """The model, its metadata, and the last 24 points of the file, standardized and not."""
    model, metadata, _ = load_run(folder / "run")
    series = forecast.load_series(folder / "s.csv")
    mean, std = series.scale()
    start = torch.tensor([len(series.values) - 24])
    past, _ = cut_windows(((series.values - mean) / std).float(), start, 24, 0)
    return model, metadata, past, series.values[-24:], mean, std


def test_predict_matches_best_baseline(trained, tmp_path):
    (answer,) = ts.predict(trained / "run", [trained / "s.csv"], out=tmp_path / "f.csv")
    *_, values, _, _ = last_window(trained)
    ours = torch.tensor([answer["quantiles"][name]["0.5"] for name in ("load", "heat")]).T
    print(ours[:3], values[:3])
    assert torch.allclose(ours.double(), values[:12], atol=1e-3)  # a day earlier


def test_predict_without_calibration_is_the_network(trained, tmp_path):
    """Runs of earlier versions have none."""
    model, metadata, past, _, mean, std = last_window(trained)
    metadata = {name: value for name, value in metadata.items() if name != "calibration"}
    (answer,) = forecast.predict(model, metadata, [trained / "s.csv"], out=tmp_path / "f.csv")
    with torch.no_grad():
        predicted = forecaster.direct(model, spec(context=24, patch=4, horizon=12), past)[0].sort(-1).values
    wanted = predicted.double() * std[:, None] + mean[:, None]
    ours = torch.tensor([list(q.values()) for q in answer["quantiles"].values()]).movedim(-1, 0)
    assert torch.allclose(ours.double(), wanted, atol=1e-4)


def test_predict_moves_quantiles_by_their_offsets(trained, tmp_path):
    """Of a file that is too short to correct them further."""
    model, metadata, _, _, _, std = last_window(trained)
    short = tmp_path / "short.csv"
    lines = (trained / "s.csv").read_text().splitlines()
    short.write_text("\n".join([lines[0], *lines[-40:]]) + "\n")
    offsets = torch.zeros(12, 2, 3)
    offsets[..., 0], offsets[..., 2] = -0.5, 2.0
    answers = []
    for moved in (torch.zeros(12, 2, 3), offsets):
        calibration = Calibration(NETWORK, moved, torch.ones(12, 2))
        metadata = {**metadata, "calibration": calibration.to_metadata()}
        answers += forecast.predict(model, metadata, [short], out=tmp_path / "f.csv")
    for i, name in enumerate(("load", "heat")):
        before, after = (answer["quantiles"][name] for answer in answers)
        change = [after[q][0] - before[q][0] for q in ("0.1", "0.5", "0.9")]
        print(name, change)
        assert change == pytest.approx([-0.5 * float(std[i]), 0, 2 * float(std[i])], abs=1e-3)


def test_predict_follows_the_latest_residuals(trained, tmp_path):
    """A file whose own past left the band has a wider one at its end."""
    model, metadata, *_ = last_window(trained)
    calibration = Calibration(NETWORK, torch.full((12, 2, 3), 0.0), torch.ones(12, 2))
    metadata = {**metadata, "calibration": calibration.to_metadata()}
    lines = (trained / "s.csv").read_text().splitlines()
    random = np.random.default_rng(0)
    for name, noise in (("calm", 0.0), ("wild", 20.0)):
        rows = [
            ",".join([time, *(f"{float(cell) + noise * random.normal():.3f}" for cell in cells)])
            for time, *cells in (line.split(",") for line in lines[1:-24])
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *rows, *lines[-24:]]) + "\n")
    widths = []
    for name in ("calm", "wild"):
        (answer,) = forecast.predict(model, metadata, [tmp_path / f"{name}.csv"], out=tmp_path / "f.csv")
        load = answer["quantiles"]["load"]
        widths.append(np.mean(np.subtract(load["0.9"], load["0.1"])))
    print(widths)
    assert widths[1] > 1.2 * widths[0]


@pytest.mark.parametrize(
    ("errors", "name"),
    [
        ({"": 1.0, "linear_": 1.1, "persistence_": 1.2, "combination_": 1.05}, "network"),
        ({"": 1.0, "linear_": 0.9, "persistence_": 1.2, "combination_": 0.95}, "linear"),
        ({"": 1.0, "linear_": 0.9, "persistence_": 0.8, "combination_": 0.95}, "persistence"),
        ({"": 1.0, "linear_": 0.9, "persistence_": 1.2, "combination_": 0.8}, "combination"),
    ],
)
def test_choose_source_takes_the_best_on_validation(errors, name):
    means = {f"{who}{kind}": error for who, error in errors.items() for kind in ("mse", "mae")}
    linear = DLinear(12, 5)
    found = forecast.choose_source([means], spec(), linear)
    print(found.name)
    assert found.name == name
    past = torch.randn(3, 12, 2)
    if name in ("linear", "combination"):
        assert torch.allclose(found.baseline(spec())(past), linear(past), atol=1e-5)
    again = Calibration(found, torch.zeros(5, 2, 3), torch.ones(5, 2)).to_metadata()
    assert Calibration.from_metadata(json.loads(json.dumps(again))).source.name == name


@pytest.mark.parametrize(("noise", "name"), [(0.01, "network"), (1.0, "linear")])
def test_choose_source_needs_more_than_chance(noise, name):
    """The network is better by 5 % in the mean of 20 blocks: that may be chance, or not."""
    chance = noise * torch.randn(20, generator=torch.Generator().manual_seed(0))
    chance -= chance.mean()
    blocks = [
        {"mse": 0.95 + x, "mae": 0.95 + x, "linear_mse": 1.0, "linear_mae": 1.0} for x in chance.tolist()
    ]
    blocks.append(dict.fromkeys(blocks[0], math.nan))  # a block without a point that was observed
    found = forecast.choose_source(blocks, spec(), DLinear(12, 5))
    print(noise, found.name, forecast.standard_error(chance.double()))
    assert found.name == name


def test_standard_error_of_overlapping_blocks():
    x = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    assert forecast.standard_error(x) == pytest.approx((4 / 3 / 4) ** 0.5)  # falling ones do not add
    assert forecast.standard_error(torch.tensor([1.0, 1.0, -1.0, -1.0]).double()) == pytest.approx(0.5**0.5)
    assert forecast.standard_error(x[:1]) == 0


def test_combination_is_the_mean_with_its_band():
    """The median is halfway between both, and each quantile as far from it as the network's."""
    net = FunctionModel(lambda x: torch.tensor([-1.0, 0.0, 2.0]).repeat(len(x), 5))
    source = Source("combination", torch.zeros(5, 13).index_fill_(1, torch.tensor([12]), 3.0))
    past = torch.ones(2, 12, 1)
    found = forecaster.predict_uncalibrated(net, spec(), past, source)
    print(found[0, 0])
    assert found.shape == (2, 5, 1, 3)
    assert torch.equal(found[0, 0, 0], torch.tensor([1.0, 2.0, 4.0]))  # of 1 and 3
    mean = forecaster.combination(net, spec(), source.baseline(spec()))(past)
    assert torch.equal(mean, found[..., 1])
    with pytest.raises(BadInput, match="linear baseline, of 5 steps at most"):
        forecaster.predict_uncalibrated(net, spec(), past, source, 6)


def test_linear_skip_begins_at_zero_and_is_linear(tmp_path):
    file = hourly(tmp_path)
    fields = {"data": str(file), "hidden": 8, "seq_len": 24, "patch": 4, "horizon": 12, "batch_size": 4}
    recipe = replace_fields(gru.RECIPES["forecast"], {**fields, "steps": 2, "linear_skip": True})
    run = forecast.build(recipe, CELL)
    model = run.state["model"]
    assert run.metadata["model_config"]["skip"] == 6  # time steps of 4 points
    x = torch.randn(3, 6, 4)
    before = model(x)
    with torch.no_grad():
        model.skip.weight.normal_()
    added = model(x) - before
    assert torch.allclose(added, x.flatten(1) @ model.skip.weight.T, atol=1e-5)
    plain = forecast.build(replace_fields(recipe, {"linear_skip": False}), CELL)
    assert "skip" not in plain.metadata["model_config"]
    steps = replace_fields(recipe, {"forecast_mode": "autoregressive", "patch": 1})
    assert forecast.build(steps, CELL).state["model"].skip is None


def test_forecast_errors_calibrated_cover_what_the_band_says():
    """A network whose bands are far too narrow: calibrated on one part they cover 0.8 of the next."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1500, 1, generator=generator)
    observed = torch.ones_like(values, dtype=torch.bool)
    net = FunctionModel(lambda x: torch.tensor([-0.1, 0.0, 0.1]).repeat(len(x), 5))
    calibration = forecaster.calibrate(net, spec(), values, observed, torch.arange(500))
    found = forecaster.forecast_errors(
        net, spec(), values, observed, torch.arange(600, 1480), None, calibration
    )
    rates = {name: float(error.mean()) for name, error in found.items() if "coverage" in name}
    print(rates)
    assert rates["raw_coverage"] < 0.2
    assert rates["fixed_coverage"] == pytest.approx(0.8, abs=0.05)
    assert rates["coverage"] == pytest.approx(0.8, abs=0.03)
    plain = forecaster.forecast_errors(net, spec(), values, observed, torch.arange(600, 1480))
    assert torch.equal(plain["mse"], found["mse"])  # the median stays


def test_predict_rejects_other_files(trained, capsys, tmp_path):
    run = trained / "run"
    both = ("load", "heat")

    def assert_rejected(match, file, *options):
        code, out, err = run_cli(capsys, "predict", run, file, *options)
        assert (code, out) == (2, "")
        assert match in err
        assert err.count("\n") == 1

    assert_rejected("12 steps at most, not 13", trained / "s.csv", "--horizon", "13")
    assert_rejected("has no column 'load'", hourly(tmp_path, name="a.csv", names=("x", "heat")))
    assert_rejected("a point every 30 min", hourly(tmp_path, name="b.csv", names=both, step=1800))
    assert_rejected("context is 24 (1 day)", hourly(tmp_path, rows=20, name="c.csv", names=both))
    assert_rejected("does not exist", tmp_path / "none.csv")
    assert_rejected(".png or .csv", trained / "s.csv", "--out", tmp_path / "f.jpg")
    assert_rejected("no folder", trained / "s.csv", "--out", tmp_path / "no" / "f.png")
    assert_rejected("leave --out out", trained / "s.csv", trained / "s.csv", "--out", tmp_path / "f.png")
    assert not (tmp_path / "f.png").exists()
    assert_rejected("--horizon", trained / "s.csv", "--horizon", "0")
    with pytest.raises(BadInput, match="has nothing to sample"):
        api.sample(run)
