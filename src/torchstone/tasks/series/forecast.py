"""Forecasting: from a recurrent network, a recipe and a series to a Run, and its use."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.series.dataset import ForecastWindows, Series, cut_windows, load_series, load_readings
from torchstone.data.series.resample import resample
from torchstone.data.series.time_csv import format_time, format_duration
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.series.dlinear import DLinear
from torchstone.plots import forecasts
from torchstone.tasks.build_network import build_network
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.series import forecaster
from torchstone.tasks.series.forecaster import PointForecaster, ForecastSpec

GLANCE = 512  # validation windows that are looked at before the last step
LINEAR_LR = 5e-3  # of the linear forecaster, as in its paper's code for ETTh1


class JointUpdate:
    """Two updates on the same batch; the second one's metrics get a name before theirs."""

    def __init__(self, first: Any, second: Any, name: str):
        self.first, self.second, self.name = first, second, name
        self.diagnosis = first.diagnosis

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        metrics, others = self.first(batch), self.second(batch)
        return {**metrics, f"{self.name}_loss": others["loss"]}


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to tell quantiles of a series' next points.

    Values are standardised by mean and deviation of the part for training. A linear forecaster
    (`DLinear`) learns from the same windows beside it, by its paper's squared error, and is judged on
    the same ones, as are repeating the last value and the last season.

    `loss` is the mean quantile loss; of the other metrics see `outlook.errors`. On the way they are
    measured on `GLANCE` validation windows, spread evenly; at the end on all.

    Raises:
        BadInput: settings that do not go together; a series too short for them.
    """
    series = load_series(recipe.data)
    how = ForecastSpec(
        recipe.length, recipe.horizon, recipe.patch, recipe.ahead, recipe.together,
        tuple(recipe.quantiles), season(series, recipe.length),
    )  # fmt: skip
    if how.ahead == "steps" and recipe.bidirectional:
        raise BadInput("step by step cannot be bidirectional: the future would be seen")
    inputs, outputs = how.sizes(len(series.columns))
    pool = recipe.pool if how.ahead == "direct" else "each"
    model, model_config = build_network(recipe, cell, inputs=inputs, outputs=outputs, tokens=False, pool=pool)
    device = next(model.parameters()).device
    mean, std = series.scale()
    values = ((series.values - mean) / std).float().to(device)
    starts = {part: series.windows(part, how.context, how.horizon) for part in series.parts}
    linear = DLinear(how.context, how.horizon).to(device)

    update, state, judged = gradient_update(
        model, recipe.optim, lambda net, batch: forecaster.loss(net, how, *batch), steps=recipe.steps
    )
    plain = dataclasses.replace(
        recipe.optim, optimizer="adam", lr=LINEAR_LR, beta1=0.9, weight_decay=0.0, warmup_ratio=0.0
    )
    beside, held, best = gradient_update(
        linear,
        plain,
        lambda net, batch: (net(batch[0]) - batch[1]).square().mean(),
        steps=recipe.steps,
    )
    stream = ForecastWindows(
        values, starts["train"], how.context, how.horizon, recipe.batch_size, seed=recipe.seed,
        rank=parallel.rank(), world_size=parallel.world_size(),
    )  # fmt: skip
    others: dict[str, PointForecaster] = {"linear": partial(predict_without_grad, best)}

    def judge(some: Int64[Tensor, " windows"], against: dict) -> dict[str, float]:
        found = forecaster.forecast_errors(judged, how, values, some, against)
        return {name: float(error.mean()) for name, error in found.items()}

    def validate() -> dict[str, float]:
        ended = stream.position >= recipe.steps * recipe.batch_size
        return judge(starts["val"] if ended else evenly_spaced_starts(starts["val"], GLANCE), others)

    def report(folder: Path) -> None:
        every = forecaster.naive_baselines(how) | others
        found = forecaster.forecast_errors(judged, how, values, starts["test"], every)
        forecasts.errors_by_step(found, how, folder / "errors.png", format_duration(series.step, series.unit))
        pasts = cut_windows(values, evenly_spaced_starts(starts["test"], 6), how.context, how.horizon)
        forecasts.examples(judged, how, *pasts, others, series.columns, folder / "forecasts.png")

    return Run(
        stream=stream,
        update=JointUpdate(update, beside, "linear"),
        evaluate=validate,
        state={
            **state,
            **{f"linear_{name}": each for name, each in held.items()},
            "stream": stream,
        },
        steps=recipe.steps,
        test=lambda: judge(starts["test"], forecaster.naive_baselines(how) | others),
        report=report,
        metadata={
            "task": "forecast",
            "variant": recipe.variant,
            "model_config": model_config,
            "how": dataclasses.asdict(how),
            "columns": list(series.columns),
            "mean": mean.tolist(),
            "std": std.tolist(),
            "step": series.step,
            "unit": series.unit,
            "data": series.note,
        },
    )


def season(series: Series, context: int) -> int:
    """Points in a day, or for daily points in a week, or in a year of months; 0 where it does not fit."""
    sizes = {"months": [12.0], "seconds": [86400.0, 7 * 86400.0], "numbers": []}[series.unit]
    for size in sizes:
        points = size / series.step
        if points >= 2 and abs(points - round(points)) < 1e-6 and round(points) <= context:
            return round(points)
    return 0


def evenly_spaced_starts(starts: Int64[Tensor, " windows"], most: int) -> Int64[Tensor, " some"]:
    """At most so many of them, spread evenly."""
    if len(starts) <= most:
        return starts
    return starts[torch.linspace(0, len(starts) - 1, most, dtype=torch.float64).round().long()]


@torch.no_grad()
def predict_without_grad(net: nn.Module, past: Tensor) -> Tensor:
    return net(past)


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """The errors on a series' test split where `held_out`, else on all of it, standardised as in
    training, beside those of repeating the last value and the last season."""
    series = load_series(spec, tuple(metadata["columns"]))
    how, values = standardize(metadata, series.values, next(model.parameters()).device)
    _same_step(metadata, series.step, series.unit, series.name)
    starts = series.windows("test" if held_out else "all", how.context, how.horizon)
    found = forecaster.forecast_errors(model, how, values, starts, forecaster.naive_baselines(how))
    return {**{name: float(error.mean()) for name, error in found.items()}, "windows": len(starts)}


def standardize(
    metadata: dict, values: Tensor, device: torch.device
) -> tuple[ForecastSpec, Float[Tensor, "points columns"]]:
    """How the model of a metadata looks at windows, and values as it sees them."""
    mean, std = (torch.tensor(metadata[name], dtype=torch.float64) for name in ("mean", "std"))
    settings: dict[str, Any] = {**metadata["how"], "quantiles": tuple(metadata["how"]["quantiles"])}
    return ForecastSpec(**settings), ((values - mean) / std).float().to(device)


def predict(
    model: nn.Module,
    metadata: dict,
    inputs: Sequence[str | Path],
    *,
    horizon: int | None = None,
    out: str | Path | None = None,
) -> list[dict]:
    """How each file's series goes on after its end: quantiles of the next `horizon` points.

    The forecast is drawn as `out`, by default NAME-forecast.png in the folder one is in; an `out` that
    ends in .csv gets its numbers instead.

    Raises:
        BadInput: other columns or another step than in training; too few points since the last gap;
            a horizon that the model does not reach; `out` for several files.
    """
    if out is not None and len(inputs) > 1:
        raise BadInput("one forecast is written a file: leave --out out, or give one input")
    answers = []
    for spec in map(str, inputs):
        file = Path(out) if out is not None else forecasts.named(spec)
        readings = load_readings(spec, tuple(metadata["columns"]))
        _same_step(metadata, resample(readings)[0], readings.unit, spec)
        step, times, values, stretches, _ = resample(readings, metadata["step"])
        first, last = stretches[-1]
        how, scaled = standardize(metadata, torch.from_numpy(values), next(model.parameters()).device)
        if last - first < how.context:
            raise BadInput(
                f"{spec}: {last - first} points since its start or last long gap, but the model looks "
                f"back on {how.context} ({format_duration(step * how.context, metadata['unit'])}): give more"
            )
        told = forecaster.predict_quantiles(model, how, scaled[None, last - how.context : last], horizon)[0].cpu()
        mean, std = (torch.tensor(metadata[name])[:, None] for name in ("mean", "std"))
        told = told * std + mean
        ahead = [float(times[last - 1]) + step * i for i in range(1, len(told) + 1)]
        moments = [format_time(time, readings.unit) for time in ahead]
        answer = forecasts.answer(spec, moments, told, how, metadata["columns"])
        tail = slice(max(first, last - max(how.context, 3 * len(told))), last)
        forecasts.write(file, answer, times[tail], values[tail], ahead, told, how, readings.unit)
        answers.append({**answer, "file": str(file)})
    return answers


def _same_step(metadata: dict, step: float, unit: str, name: str) -> None:
    if unit != metadata["unit"] or abs(step / metadata["step"] - 1) > 0.01:
        raise BadInput(
            f"{name} has a point every {format_duration(step, unit)}, the model one every "
            f"{format_duration(metadata['step'], metadata['unit'])}: give a series of that step, or train on this one"
        )
