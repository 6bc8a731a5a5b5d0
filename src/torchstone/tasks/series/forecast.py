"""Forecasting: training a recurrent network on a time series, evaluation, and prediction from files."""

import csv
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.series.calendar import Calendar, format_duration
from torchstone.data.series.dataset import ForecastWindows, Series, cut_windows, load_readings, load_series
from torchstone.data.series.open_times import OpenTimes
from torchstone.data.series.resample import resample
from torchstone.engine import parallel
from torchstone.engine.console import notify
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.files import atomic_write
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.masked import masked_mean
from torchstone.parts.modes import eval_mode
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.series.conformal import OffsetTracker, apply_offsets
from torchstone.parts.series.dlinear import DLinear
from torchstone.plots import forecasts
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.recurrent import build_network
from torchstone.tasks.series import forecaster
from torchstone.tasks.series.forecaster import (
    COMBINATION,
    LEARNED,
    NETWORK,
    SOURCES,
    Calibration,
    ForecastSpec,
    PointForecaster,
    Source,
)

VAL_WINDOWS = 512  # validation windows that are evaluated before the last step
CALIBRATION_WINDOWS = 4096  # validation windows that calibrate the quantiles, at most
# a file's own latest windows that correct them further: at most so many, and this share of its points, since
# earlier ones may have been trained on
HISTORY_WINDOWS, HISTORY_SHARE = 1000, 0.2
PLOTTED_WINDOWS = 6
LINEAR_LR = 5e-3  # of the linear baseline, as in its paper's code for ETTh1


class JointUpdate:
    """Two updates on the same batch; the second one's loss is logged with a name before it."""

    def __init__(self, first: Any, second: Any, name: str):
        self.first, self.second, self.name = first, second, name
        self.diagnosis = first.diagnosis

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        metrics, others = self.first(batch), self.second(batch)
        return {**metrics, f"{self.name}_loss": others["loss"]}


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to predict quantiles of a series' next `recipe.forecast.horizon` points.

    Values are standardized by mean and standard deviation of the training split. A linear baseline
    (`DLinear`) is trained on the same windows by its paper's squared error, and evaluated on the same ones,
    as are persistence and the seasonal naive forecast.

    `loss` is the mean quantile loss; for the other metrics see `forecaster.forecast_errors`. Before the
    last step they are measured on `VAL_WINDOWS` evenly spaced validation windows; then on all. The last ones
    also calibrate the quantiles, and decide whether the forecast is the network's, a baseline's, or the mean
    of the network's and the linear one's.

    Raises:
        BadInput: settings that do not go together; a series too short for them.
    """
    series = load_series(recipe.data)
    spec = ForecastSpec(recipe.forecast, recipe.seq_len, season(series, recipe.seq_len))
    if not spec.is_direct and recipe.network.bidirectional:
        raise BadInput("an autoregressive network cannot be bidirectional: it would see the future")
    inputs, outputs = spec.sizes(len(series.columns))
    pool = recipe.pool if spec.is_direct else "each"
    skip = {"skip": spec.context // spec.config.patch} if spec.is_direct and spec.config.linear_skip else {}
    model, model_config = build_network(
        recipe, cell, inputs=inputs, outputs=outputs, tokens=False, pool=pool, **skip
    )
    device = next(model.parameters()).device
    mean, std = series.scale()
    values, observed = ((series.values - mean) / std).float().to(device), series.observed.to(device)
    starts = {split: series.windows(split, spec.context, spec.horizon) for split in series.parts}
    linear = DLinear(spec.context, spec.horizon).to(device)

    update, state, eval_model = gradient_update(
        model, recipe.optim, partial(network_loss, spec=spec), steps=recipe.steps
    )
    linear_optim = dataclasses.replace(
        recipe.optim, optimizer="adam", lr=LINEAR_LR, beta1=0.9, weight_decay=0.0, warmup_ratio=0.0
    )
    linear_update, linear_state, linear_eval_model = gradient_update(
        linear, linear_optim, partial(linear_loss, spec=spec), steps=recipe.steps
    )
    stream = ForecastWindows(
        values,
        observed,
        starts["train"],
        spec.context,
        spec.horizon,
        recipe.batch_size,
        seed=recipe.seed,
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )
    trained: dict[str, PointForecaster] = {"linear": partial(predict_without_grad, linear_eval_model)}
    baselines = forecaster.naive_baselines(spec) | trained

    def errors_of(split: str, others: dict, calibration: Calibration | None) -> dict[str, Tensor]:
        windows = starts[split]
        return forecaster.forecast_errors(eval_model, spec, values, observed, windows, others, calibration)

    def validate() -> dict[str, float]:
        windows = evenly_spaced_starts(starts["val"], VAL_WINDOWS)
        return uncalibrated(forecaster.forecast_errors(eval_model, spec, values, observed, windows, trained))

    def validate_all() -> dict[str, float]:
        """Of the weights that are kept: what the forecast is made of, and the calibration of its bands."""
        errors = errors_of("val", baselines, None)
        candidates = baselines | {COMBINATION: forecaster.combination(eval_model, spec, baselines["linear"])}
        blocks = [
            average(forecaster.forecast_errors(eval_model, spec, values, observed, block, candidates))
            for block in starts["val"].split(spec.horizon)
        ]
        source = choose_source(blocks, spec, linear_eval_model)
        windows = evenly_spaced_starts(starts["val"], CALIBRATION_WINDOWS)
        found = forecaster.calibrate(eval_model, spec, values, observed, windows, source)
        run.calibration["calibration"] = found.to_metadata()
        return uncalibrated(errors)

    def uncalibrated(errors: dict[str, Tensor]) -> dict[str, float]:
        errors["raw_coverage"] = errors.pop("coverage")
        return average(errors)

    def test() -> dict[str, float]:
        calibration, others = calibration_of(run.calibration), {}
        if calibration is not None and calibration.source.name != NETWORK.name:
            notify(describe_source(calibration.source))
            network = average(errors_of("test", {}, None))
            others = {f"network_{name}": network[name] for name in ("mse", "mae")}
        return average(errors_of("test", baselines, calibration)) | others

    def report(folder: Path) -> None:
        calibration = calibration_of(run.calibration)
        errors = errors_of("test", baselines, calibration)
        step = format_duration(series.step, series.unit)
        forecasts.errors_by_step(errors, spec.quantiles, folder / "errors.png", step)
        windows = evenly_spaced_starts(starts["test"], PLOTTED_WINDOWS)
        past, future = cut_windows(values, windows, spec.context, spec.horizon)
        source = calibration.source if calibration else NETWORK
        predicted = forecaster.predict_uncalibrated(eval_model, spec, past, source)
        if calibration is not None:
            offsets = calibration.offsets.to(predicted)
            predicted = apply_offsets(predicted, offsets, spec.quantiles.index(0.5))
        points = {name: predict_points(past) for name, predict_points in trained.items()}
        forecasts.examples(
            predicted, past, future, points, spec.quantiles, series.columns, folder / "forecasts.png"
        )

    run = Run(
        stream=stream,
        update=JointUpdate(update, linear_update, "linear"),
        evaluate=validate,
        evaluate_all=validate_all,
        best_metric="loss",
        examples=Examples(
            recipe.batch_size, len(starts["train"]), min(VAL_WINDOWS, len(starts["val"])), "windows"
        ),
        state={**state, **{f"linear_{name}": each for name, each in linear_state.items()}, "stream": stream},
        steps=recipe.steps,
        test=test,
        report=report,
        metadata={
            "task": "forecast",
            "variant": recipe.variant,
            "model_config": model_config,
            "forecast": spec.to_metadata(),
            "columns": list(series.columns),
            "mean": mean.tolist(),
            "std": std.tolist(),
            "step": series.step,
            "unit": series.unit,
            "data": series.description,
        },
    )
    return run


def average(errors: Mapping[str, Float[Tensor, " horizon"]]) -> dict[str, float]:
    """Means over the steps of the horizon at which anything was observed."""
    return {name: float(error.nanmean()) for name, error in errors.items()}


def choose_source(blocks: Sequence[Mapping[str, float]], spec: ForecastSpec, linear: nn.Module) -> Source:
    """The best of the network and its combination with the linear baseline, if on validation it is better
    than the best baseline by two standard errors of their difference; else that baseline.

    What is more than chance is decided as by Diebold and Mariano 1995, Journal of Business & Economic
    Statistics 13:253. Of several the best has the smallest product of squared and absolute error; a
    difference is that of their sum, relative to the baseline's. Of a single block any difference counts.

    Args:
        blocks: mean errors of consecutive blocks of validation windows.
    """
    known = [each for each in blocks if math.isfinite(each["mse"])]
    errors = {
        name: torch.tensor([[each[f"{prefix}mse"], each[f"{prefix}mae"]] for each in known]).double()
        for name, prefix in SOURCES.items()
        if f"{prefix}mse" in known[0]
    }
    product = {name: float(error.mean(0).prod()) for name, error in errors.items()}
    learned = min((name for name in LEARNED if name in errors), key=product.__getitem__)
    baseline = min((name for name in errors if name not in LEARNED), key=product.__getitem__)
    unit = errors[baseline].mean(0).clamp(min=1e-12)
    gain = ((errors[baseline] - errors[learned]) / unit).sum(1)
    chosen = learned if float(gain.mean()) >= 2 * standard_error(gain) else baseline
    if chosen == NETWORK.name:
        return NETWORK
    weights = linear_weights(linear, spec.context) if chosen in ("linear", COMBINATION) else None
    return Source(chosen, weights)


def standard_error(x: Float[Tensor, " blocks"]) -> float:
    """Of the mean of blocks, of which neighbours share half of what they forecast; 0 of a single one."""
    centered, count = x - x.mean(), len(x)
    if count < 2:
        return 0.0
    variance, covariance = centered.square().sum(), (centered[1:] * centered[:-1]).sum()
    return float((variance + 2 * covariance.clamp(min=0)) / (count - 1) / count) ** 0.5


def linear_weights(linear: nn.Module, context: int) -> Float[Tensor, "horizon inputs"]:
    """What the linear baseline computes as one matrix, the bias last."""
    device = next(linear.parameters()).device
    bias = predict_without_grad(linear, torch.zeros(1, context, 1, device=device))[:, :, 0]
    columns = predict_without_grad(linear, torch.eye(context, device=device)[:, :, None])[:, :, 0] - bias
    return torch.cat([columns, bias]).T.cpu()


def describe_source(source: Source) -> str:
    if source.name == COMBINATION:
        return (
            "the forecast is the mean of the network's and the linear baseline's, which was better than "
            "either on the validation windows"
        )
    return (
        f"the forecast is that of the {source.name} baseline: the network was not better on the "
        "validation windows, or not by more than chance"
    )


def network_loss(net: nn.Module, batch: Sequence[Tensor], spec: ForecastSpec) -> dict[str, Tensor]:
    """The quantile loss, and over how many points it is a mean."""
    past, future, observed = batch
    count = forecaster.targets_of(spec, observed).sum().clamp(min=1)
    return {"loss": forecaster.loss(net, spec, past, future, observed), "weight": count}


def linear_loss(net: nn.Module, batch: Sequence[Tensor], spec: ForecastSpec) -> dict[str, Tensor]:
    """The squared error of the linear baseline, and over how many points it is a mean."""
    past, future, observed = batch
    mask = observed[:, spec.context :]
    loss = masked_mean((net(past) - future).square(), mask)
    return {"loss": loss, "weight": mask.sum().clamp(min=1)}


def season(series: Series, context: int) -> int:
    """Points in a day, or for daily points in a week, or for months in a year; 0 where it does not fit."""
    sizes = {"months": [12.0], "seconds": [86400.0, 7 * 86400.0], "numbers": []}.get(series.unit)
    if sizes is None:  # open days
        sizes = [1.0, float(len(OpenTimes.from_unit(series.unit).weekdays))]
    for size in sizes:
        points = size / series.step
        if points >= 2 and abs(points - round(points)) < 1e-6 and round(points) <= context:
            return round(points)
    return 0


def evenly_spaced_starts(starts: Int64[Tensor, " windows"], most: int) -> Int64[Tensor, " chosen"]:
    """At most so many of the windows, evenly spaced."""
    return starts[evenly_spaced(len(starts), most)]


@torch.no_grad()
def predict_without_grad(net: nn.Module, past: Tensor) -> Tensor:
    with eval_mode(net):
        return net(past)


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Errors on a series' test split where `held_out`, else on all of it, standardized as in training,
    with those of the naive baselines."""
    series = load_series(spec, tuple(metadata["columns"]), metadata["unit"])
    config, values = standardize(metadata, series.values, next(model.parameters()).device)
    observed = series.observed.to(values.device)
    _check_step(metadata, series.step, series.unit, series.name)
    starts = series.windows("test" if held_out else "all", config.context, config.horizon)
    baselines = forecaster.naive_baselines(config)
    errors = forecaster.forecast_errors(
        model, config, values, observed, starts, baselines, calibration_of(metadata)
    )
    return {**average(errors), "windows": len(starts)}


def calibration_of(metadata: Mapping[str, Any]) -> Calibration | None:
    """A saved model's calibration; earlier versions and unfinished runs have none."""
    found = metadata.get("calibration")
    return None if found is None else Calibration.from_metadata(found)


def standardize(
    metadata: dict, values: Tensor, device: torch.device
) -> tuple[ForecastSpec, Float[Tensor, "points columns"]]:
    """How a saved model reads windows, and values standardized as in its training."""
    mean, std = (torch.tensor(metadata[name], dtype=torch.float64) for name in ("mean", "std"))
    return ForecastSpec.from_metadata(metadata["forecast"]), ((values - mean) / std).float().to(device)


def predict(
    model: nn.Module,
    metadata: dict,
    inputs: Sequence[str | Path],
    *,
    horizon: int | None = None,
    out: str | Path | None = None,
) -> list[dict]:
    """Forecast each file's series: quantiles of the next `horizon` points after its end.

    The forecast is drawn as `out`, by default NAME-forecast.png in the current folder; an `out` that
    ends in .csv gets its numbers instead.

    Raises:
        BadInput: other columns or another step than in training; too few points since the last gap;
            a horizon that the model does not reach; `out` for several files.
    """
    if out is not None and len(inputs) > 1:
        raise BadInput("each forecast is a file of its own: leave --out out, or give one input")
    answers = []
    for source in map(str, inputs):
        file = Path(out) if out is not None else default_file(source)
        readings = load_readings(source, tuple(metadata["columns"]), metadata["unit"])
        _check_step(metadata, resample(readings).step, readings.unit, source)
        grid = resample(readings, metadata["step"])
        step, times, values = grid.step, grid.times, grid.values
        first, last = grid.segments[-1]
        spec, scaled = standardize(metadata, torch.from_numpy(values), next(model.parameters()).device)
        if last - first < spec.context:
            raise BadInput(
                f"{source}: {last - first} points since its start or last long gap, but the model's context "
                f"is {spec.context} ({format_duration(step * spec.context, metadata['unit'])}): give more"
            )
        past = scaled[None, last - spec.context : last]
        calibration = calibration_of(metadata)
        basis = calibration.source if calibration else NETWORK
        predicted = forecaster.predict_uncalibrated(model, spec, past, basis, horizon)[0].cpu()
        if calibration is not None:
            is_observed = torch.from_numpy(~grid.is_filled).to(scaled.device)
            offsets = latest_offsets(model, spec, scaled, is_observed, (first, last), calibration)
            predicted = apply_offsets(
                predicted, extend(offsets, len(predicted)), list(spec.quantiles).index(0.5)
            )
        mean, std = (torch.tensor(metadata[name])[:, None] for name in ("mean", "std"))
        predicted = predicted * std + mean
        future = [float(times[last - 1]) + step * i for i in range(1, len(predicted) + 1)]
        time_names = [readings.calendar.format(time) for time in future]
        answer = format_answer(source, time_names, predicted, spec.quantiles, metadata["columns"])
        if basis.name != NETWORK.name:
            answer["text"] += f"\n{describe_source(basis)}"
        tail = slice(max(first, last - max(spec.context, 3 * len(predicted))), last)
        try:
            with atomic_write(file) as new:
                if file.suffix.lower() == ".csv":
                    _write_csv(new, answer)
                else:
                    shown, unit = _plotted_times(readings.calendar)
                    forecasts.continuation(
                        new,
                        metadata["columns"],
                        shown(times[tail].tolist()),
                        values[tail],
                        shown(future),
                        predicted,
                        spec.quantiles,
                        unit,
                    )
        except OSError as error:
            raise BadInput(f"cannot write {file} ({error.strerror}): choose another --out") from None
        answers.append({**answer, "file": str(file)})
    return answers


def latest_offsets(
    model: nn.Module,
    spec: ForecastSpec,
    values: Float[Tensor, "points columns"],
    observed: Bool[Tensor, "points columns"],
    segment: tuple[int, int],
    calibration: Calibration,
) -> Float[Tensor, "horizon columns quantiles"]:
    """Offsets for a forecast after the last point, corrected by how the forecasts before it turned out."""
    first, last = segment
    count = min(HISTORY_WINDOWS, round(HISTORY_SHARE * (last - first)))
    tracker = OffsetTracker(calibration.offsets, calibration.scale, spec.quantiles)
    begin, end = last - spec.context - spec.horizon - count + 1, last - spec.context - spec.horizon + 1
    starts = torch.arange(max(first, begin), end)
    if len(starts) < spec.horizon:
        return calibration.offsets
    past, future = cut_windows(values, starts, spec.context, spec.horizon)
    _, mask = cut_windows(observed, starts, spec.context, spec.horizon)
    with torch.no_grad():
        residuals = future[..., None] - forecaster.predict_uncalibrated(model, spec, past, calibration.source)
    forecaster.track_offsets(tracker, starts, residuals, mask)
    return tracker.next_offsets(int(starts[-1]) + 1)


def extend(
    offsets: Float[Tensor, "horizon columns quantiles"], steps: int
) -> Float[Tensor, "steps columns quantiles"]:
    """Offsets of so many steps; beyond the horizon they are those of its last step."""
    return offsets[torch.arange(steps).clamp(max=len(offsets) - 1)]


def _plotted_times(calendar: Calendar) -> tuple[Callable[[Sequence[float]], list[float]], str]:
    """How times are put on an axis, and the axis' unit: dates are those of the file's own clock."""
    if calendar.unit in ("numbers", "months"):
        return list, calendar.unit
    return lambda times: [calendar.local(time) for time in times], f"seconds{calendar.zone()}"


def format_answer(
    name: str,
    times: Sequence[str],
    predicted: Float[Tensor, "horizon columns quantiles"],
    levels: Sequence[float],
    columns: Sequence[str],
) -> dict[str, Any]:
    """A forecast as JSON, with a table of it as `text`."""
    median = list(levels).index(0.5)
    quantiles = {
        column: {f"{q:g}": predicted[:, i, j].tolist() for j, q in enumerate(levels)}
        for i, column in enumerate(columns)
    }
    cells = [
        [time, *(f"{row[median]:.4g} ({row[0]:.4g} to {row[-1]:.4g})" for row in point.tolist())]
        for time, point in zip(times, predicted, strict=True)
    ]
    cells.insert(0, ["time", *columns])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in cells]
    title = f"{name}: median, and in brackets the quantiles {forecasts.band_name(levels)}"
    text = "\n".join([title, *(line.rstrip() for line in lines)])
    return {"input": name, "times": list(times), "quantiles": quantiles, "text": text}


def _write_csv(file: Path, answer: dict[str, Any]) -> None:
    tables = answer["quantiles"]
    with file.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["time", *(f"{name} {q}" for name, table in tables.items() for q in table)])
        for i, time in enumerate(answer["times"]):
            lines.writerow([time, *(row[i] for table in tables.values() for row in table.values())])


def default_file(source: str) -> Path:
    """The figure of a file's forecast, in the current folder."""
    path = Path(source)
    if not path.exists() and ":" in source:
        path = Path(source.rpartition(":")[0])
    return Path(f"{path.stem}-forecast.png")


def _check_step(metadata: dict, step: float, unit: str, name: str) -> None:
    if unit != metadata["unit"] or abs(step / metadata["step"] - 1) > 0.01:
        own = format_duration(metadata["step"], metadata["unit"])
        raise BadInput(
            f"{name} has a point every {format_duration(step, unit)}, the model one every "
            f"{own}: give a series of that step, or train on this one"
        )
