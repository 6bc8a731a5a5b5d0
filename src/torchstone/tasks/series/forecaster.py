"""Quantile forecasts, direct or autoregressive, and their baselines: how windows are read and evaluated."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.series.dataset import cut_windows
from torchstone.errors import BadInput
from torchstone.parts.masked import masked_mean
from torchstone.parts.modes import eval_mode
from torchstone.parts.series.conformal import OffsetTracker, apply_offsets, conformal_offsets, residual_scale
from torchstone.parts.series.quantile_loss import inside_band, interpolate_quantiles, pinball, sort_quantiles

SAMPLE_PATHS = 64  # sampled futures of each window, in autoregressive forecasts
MAX_NUMBERS = 2**22  # predicted at a time when many windows are evaluated

Past = Float[Tensor, "batch context columns"]
Future = Float[Tensor, "batch horizon columns"]
Quantiles = Float[Tensor, "batch horizon columns quantiles"]
PointForecaster = Callable[[Past], Future]


@dataclass(frozen=True)
class ForecastConfig:
    """What is forecast, and from what."""

    horizon: int = 48  # forecast horizon in points
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)  # quantiles to predict; the outer ones are the band
    forecast_mode: Literal["direct", "autoregressive"] = "direct"  # whole horizon at once, or point by point
    patch: int = 1  # patch length: points per time step of the network
    multivariate: bool = False  # one state for all columns, instead of one per column
    linear_skip: bool = False  # linear skip connection from the context to a direct forecast (TiDE)


# what fields of `ForecastSpec` were called in the metadata of earlier versions
OLD_FIELDS = {"ahead": "forecast_mode", "together": "multivariate"}
OLD_VALUES = {"steps": "autoregressive"}


@dataclass(frozen=True)
class ForecastSpec:
    """How a window is read and predicted.

    A time step of the network reads a patch of points (Lin et al. 2023, arXiv:2308.11200). A `direct`
    forecast predicts the whole horizon from the last state, an `autoregressive` one a point from each state.

    Args:
        context: points before the forecast.
        season: points in a season, 0 where none fits the context.

    Raises:
        BadInput: settings that do not go together.
    """

    config: ForecastConfig
    context: int
    season: int = 0

    def __post_init__(self):
        levels, patch = self.quantiles, self.config.patch
        inside = all(0 < level < 1 for level in levels)
        if not levels or not inside or list(levels) != sorted(set(levels)):
            raise BadInput(f"quantiles must rise between 0 and 1, such as 0.1,0.5,0.9, not {levels}")
        if 0.5 not in levels or len(levels) < 2:
            raise BadInput(f"one of the quantiles must be 0.5, the point forecast, not {levels}")
        if min(self.context, self.horizon, patch) < 1 or self.context % patch:
            raise BadInput(
                f"a context of {self.context} points cannot be read in patches of {patch}, to forecast "
                f"{self.horizon}: make seq_len a multiple of patch"
            )
        if not self.is_direct and patch > 1:
            raise BadInput(f"autoregressive forecasting needs patch 1, not {patch}")

    @classmethod
    def from_metadata(cls, fields: Mapping[str, Any]) -> "ForecastSpec":
        """`to_metadata` undone, also of earlier versions' names."""
        settings = {OLD_FIELDS.get(name, name): value for name, value in fields.items()}
        context, season = settings.pop("context"), settings.pop("season")
        settings["quantiles"] = tuple(settings["quantiles"])
        mode = settings["forecast_mode"]
        settings["forecast_mode"] = OLD_VALUES.get(mode, mode)
        return cls(ForecastConfig(**settings), context, season)

    def to_metadata(self) -> dict[str, Any]:
        return {"context": self.context, "season": self.season, **asdict(self.config)}

    @property
    def horizon(self) -> int:
        return self.config.horizon

    @property
    def quantiles(self) -> tuple[float, ...]:
        return self.config.quantiles

    @property
    def is_direct(self) -> bool:
        return self.config.forecast_mode == "direct"

    def sizes(self, columns: int) -> tuple[int, int]:
        """Inputs and outputs of the network at each time step."""
        width = columns if self.config.multivariate else 1
        outputs = width * len(self.quantiles)
        return self.config.patch * width, outputs * (self.horizon if self.is_direct else 1)

    def to_rows(self, x: Past) -> Float[Tensor, "rows context width"]:
        """One row per window, or one per window and column."""
        return x if self.config.multivariate else x.transpose(1, 2).reshape(-1, x.shape[1], 1)

    def from_rows(self, predicted: Float[Tensor, "rows horizon width quantiles"], columns: int) -> Quantiles:
        """`to_rows` undone."""
        if self.config.multivariate:
            return predicted
        return predicted.squeeze(2).unflatten(0, (-1, columns)).transpose(1, 2)


def targets_of(
    spec: ForecastSpec, observed: Bool[Tensor, "batch window columns"]
) -> Bool[Tensor, "batch targets columns"]:
    """Which points the loss is over: those of the horizon, or all but the first, that were measured."""
    return observed[:, spec.context :] if spec.is_direct else observed[:, 1:]


def loss(
    net: Any,
    spec: ForecastSpec,
    past: Past,
    future: Future,
    observed: Bool[Tensor, "batch window columns"] | None = None,
) -> Tensor:
    """The mean quantile loss: of the horizon, or one step ahead of every point but the first.

    Args:
        observed: which points of the window were measured; others are no targets. By default all.
    """
    if spec.is_direct:
        losses = pinball(direct(net, spec, past), future, spec.quantiles)
    else:
        last = spec.to_rows(past)[:, -1:]
        x = spec.to_rows(torch.cat([past, future], 1))
        predicted = _split_quantiles(net(x[:, :-1] - last), spec) + x[:, :-1, :, None]
        losses = spec.from_rows(pinball(predicted, x[:, 1:], spec.quantiles), past.shape[2])
    if observed is None:
        return losses.mean()
    return masked_mean(losses.mean(-1), targets_of(spec, observed))


def direct(net: Any, spec: ForecastSpec, past: Past) -> Quantiles:
    """The whole horizon at once, as changes from the last value, which is subtracted from the input
    too (Zeng et al. 2022, arXiv:2205.13504, section 4.1, NLinear): a series may drift."""
    x = spec.to_rows(past)
    last = x[:, -1:]
    patches = (x - last).reshape(len(x), spec.context // spec.config.patch, -1)
    changes = net(patches).view(len(x), spec.horizon, x.shape[2], len(spec.quantiles))
    return spec.from_rows(changes + last[..., None], past.shape[2])


def _split_quantiles(y: Tensor, spec: ForecastSpec) -> Float[Tensor, "rows *time width quantiles"]:
    return y.unflatten(-1, (-1, len(spec.quantiles)))


def autoregressive(model: Any, spec: ForecastSpec, past: Past, horizon: int) -> Quantiles:
    """Many sample paths, each drawn point by point from the predicted quantiles, and their quantiles.

    The random numbers are the same in every call. Columns of one state are drawn independently.
    """
    generator = torch.Generator().manual_seed(0)
    x = spec.to_rows(past)
    last = x[:, -1:]
    y, state = model.step(x - last)
    predicted = _split_quantiles(y[:, -1], spec) + x[:, -1, :, None]
    state = tuple(each.repeat_interleave(SAMPLE_PATHS, 1) for each in state)
    last = last.repeat_interleave(SAMPLE_PATHS, 0)
    predicted = predicted.repeat_interleave(SAMPLE_PATHS, 0)
    path = []
    for _ in range(horizon):
        levels = torch.rand(predicted.shape[:-1], generator=generator).to(past.device)
        value = interpolate_quantiles(sort_quantiles(predicted), spec.quantiles, levels)
        path.append(value)
        y, state = model.step(value[:, None] - last, state)
        predicted = _split_quantiles(y[:, 0], spec) + value[..., None]
    futures = torch.stack(path, 1).unflatten(0, (-1, SAMPLE_PATHS))
    levels = torch.tensor(spec.quantiles, device=past.device)
    return spec.from_rows(futures.quantile(levels, dim=1).movedim(0, -1), past.shape[2])


@torch.no_grad()
def predict_quantiles(
    model: nn.Module, spec: ForecastSpec, past: Past, horizon: int | None = None
) -> Quantiles:
    """Quantiles of each point of the horizon, sorted so that none crosses another.

    Raises:
        BadInput: a horizon beyond what a direct forecast predicts.
    """
    horizon = spec.horizon if horizon is None else horizon
    if spec.is_direct and horizon > spec.horizon:
        raise BadInput(
            f"the model predicts {spec.horizon} steps at once, not {horizon}: use a smaller horizon, or "
            "train with a larger one, or with --forecast_mode autoregressive"
        )
    with eval_mode(model):
        if spec.is_direct:
            return sort_quantiles(direct(model, spec, past)[:, :horizon])
        return autoregressive(model, spec, past, horizon)


def naive_baselines(spec: ForecastSpec) -> dict[str, PointForecaster]:
    """Forecasts without training: persistence (the last value), and seasonal naive (the last season)."""
    ahead = torch.arange(spec.horizon)
    persistence: PointForecaster = lambda past: past[:, -1:].expand(-1, spec.horizon, -1)  # noqa: E731
    if not spec.season:
        return {"persistence": persistence}
    return {
        "persistence": persistence,
        "seasonal": lambda past: past[:, -spec.season :][:, ahead % spec.season],
    }


@dataclass(frozen=True)
class Source:
    """Whose points a forecast is: the `network`'s, a baseline's, or the `combination`: the mean of the
    network's and the linear baseline's (Bates and Granger 1969, Operational Research Quarterly 20:451).

    Args:
        weights: of the linear baseline, if it is the source: (horizon, context + 1), the bias is the last.
    """

    name: str = "network"
    weights: Float[Tensor, "horizon inputs"] | None = None

    def baseline(self, spec: ForecastSpec) -> PointForecaster | None:
        """The baseline, or none where it is the network."""
        if self.name == "network":
            return None
        if self.weights is None:
            return naive_baselines(spec)[self.name]
        weights = self.weights

        def linear(past: Past) -> Future:
            inputs = past.transpose(1, 2)
            own = weights.to(inputs)
            return (inputs @ own[:, :-1].T + own[:, -1]).transpose(1, 2)

        return linear


NETWORK = Source()
COMBINATION = "combination"
# what a forecast may be made of, and what stands before its errors' names
SOURCES = {
    "persistence": "persistence_",
    "seasonal": "seasonal_",
    "linear": "linear_",
    COMBINATION: f"{COMBINATION}_",
    "network": "",
}
LEARNED = (COMBINATION, "network")  # those that the network has a part in


def combine(predicted: Quantiles, points: Future, median: int) -> Quantiles:
    """Quantiles moved so that the median is halfway to a baseline's points."""
    return predicted + (points - predicted[..., median])[..., None] / 2


def combination(model: nn.Module, spec: ForecastSpec, baseline: PointForecaster) -> PointForecaster:
    """The mean of a network's median and of a baseline."""
    median = spec.quantiles.index(0.5)
    return lambda past: (predict_quantiles(model, spec, past)[..., median] + baseline(past)) / 2


@dataclass(frozen=True)
class Calibration:
    """How a model's forecasts are corrected, measured on validation windows.

    Args:
        offsets: of each step, column and quantile, in standard deviations; see `parts.series.conformal`.
        scale: of the residuals, for each step and column.
    """

    source: Source
    offsets: Float[Tensor, "horizon columns quantiles"]
    scale: Float[Tensor, "horizon columns"]

    @classmethod
    def from_metadata(cls, fields: Mapping[str, Any]) -> "Calibration":
        weights = fields["weights"]
        source = Source(fields["forecaster"], None if weights is None else torch.tensor(weights))
        return cls(source, torch.tensor(fields["offsets"]), torch.tensor(fields["scale"]))

    def to_metadata(self) -> dict[str, Any]:
        weights = self.source.weights
        return {
            "forecaster": self.source.name,
            "weights": None if weights is None else weights.tolist(),
            "offsets": self.offsets.tolist(),
            "scale": self.scale.tolist(),
        }


def predict_uncalibrated(
    model: nn.Module, spec: ForecastSpec, past: Past, source: Source = NETWORK, horizon: int | None = None
) -> Quantiles:
    """Quantiles before they are calibrated: the network's, those moved to the combination, or a baseline's
    point for each of them.

    Raises:
        BadInput: a horizon beyond what the forecaster reaches.
    """
    baseline = source.baseline(spec)
    if baseline is None:
        return predict_quantiles(model, spec, past, horizon)
    if horizon is not None and horizon > spec.horizon:
        raise BadInput(
            f"the forecast is made with the {source.name.replace(COMBINATION, 'linear')} baseline, of "
            f"{spec.horizon} steps at most, not {horizon}: use a smaller horizon, or train with a larger one"
        )
    points = baseline(past)[:, : horizon or spec.horizon]
    if source.name == COMBINATION:
        predicted = predict_quantiles(model, spec, past, points.shape[1])
        return combine(predicted, points, spec.quantiles.index(0.5))
    return points[..., None].expand(*points.shape, len(spec.quantiles))


@torch.no_grad()
def calibrate(
    model: nn.Module,
    spec: ForecastSpec,
    values: Float[Tensor, "points columns"],
    observed: Bool[Tensor, "points columns"],
    starts: Int64[Tensor, " windows"],
    source: Source = NETWORK,
) -> Calibration:
    """Offsets by the residuals of validation windows."""
    residuals, masks = [], []
    for batch in starts.split(max(1, MAX_NUMBERS // _numbers_per_window(spec, values.shape[1]))):
        past, future = cut_windows(values, batch, spec.context, spec.horizon)
        residuals.append((future[..., None] - predict_uncalibrated(model, spec, past, source)).cpu())
        masks.append(cut_windows(observed, batch, spec.context, spec.horizon)[1].cpu())
    residual, mask = torch.cat(residuals), torch.cat(masks)
    offsets = conformal_offsets(residual, mask, spec.quantiles)
    return Calibration(source, offsets, residual_scale(residual, mask))


def _numbers_per_window(spec: ForecastSpec, columns: int) -> int:
    """Numbers predicted for a window, sampled paths included."""
    return spec.horizon * columns * len(spec.quantiles) * (1 if spec.is_direct else SAMPLE_PATHS)


def track_offsets(
    tracker: OffsetTracker,
    starts: Int64[Tensor, " windows"],
    residuals: Float[Tensor, "windows horizon columns quantiles"],
    observed: Bool[Tensor, "windows horizon columns"],
) -> Float[Tensor, "windows horizon columns quantiles"]:
    """The offsets that each window's forecast had when it was made."""
    offsets = []
    for start, residual, mask in zip(starts.tolist(), residuals.cpu(), observed.cpu(), strict=True):
        offsets.append(tracker.next_offsets(start))
        tracker.add(start, residual, mask)
    return torch.stack(offsets).to(residuals)


@torch.no_grad()
def forecast_errors(
    model: nn.Module,
    spec: ForecastSpec,
    values: Float[Tensor, "points columns"],
    observed: Bool[Tensor, "points columns"],
    starts: Int64[Tensor, " windows"],
    baselines: dict[str, PointForecaster] | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Float[Tensor, " horizon"]]:
    """Mean errors at each step of the horizon, over windows and columns, in standard deviations.

    Points that were filled in count for nothing; a step at which none was observed is NaN.

    `loss` is the quantile loss, `mse` and `mae` are those of the median, `coverage` is the share of the
    truth inside the band; `NAME_mse` and `NAME_mae` are a baseline's.

    With a `calibration` the windows are consecutive, and its offsets follow their residuals as these become
    known; `fixed_coverage` is that of offsets which do not, `raw_coverage` that of the network alone.
    """
    numbers = _numbers_per_window(spec, values.shape[1])
    median, sums, counts = spec.quantiles.index(0.5), {}, 0
    tracker = None
    if calibration is not None:
        tracker = OffsetTracker(calibration.offsets, calibration.scale, spec.quantiles)
    for batch in starts.split(max(1, MAX_NUMBERS // numbers)):
        past, future = cut_windows(values, batch, spec.context, spec.horizon)
        _, mask = cut_windows(observed, batch, spec.context, spec.horizon)
        predicted = predict_uncalibrated(model, spec, past, calibration.source if calibration else NETWORK)
        errors = {}
        if tracker is not None and calibration is not None:
            fixed = apply_offsets(predicted, calibration.offsets.to(predicted), median)
            errors["fixed_coverage"] = inside_band(fixed, future).to(future.dtype)
            if calibration.source.name == "network":
                errors["raw_coverage"] = inside_band(predicted, future).to(future.dtype)
            offsets = track_offsets(tracker, batch, future[..., None] - predicted, mask)
            predicted = apply_offsets(predicted, offsets, median)
        errors |= {
            "loss": pinball(predicted, future, spec.quantiles).mean(-1),
            "coverage": inside_band(predicted, future).to(future.dtype),
        }
        points = {"": predicted[..., median]}
        points |= {f"{name}_": forecast(past) for name, forecast in (baselines or {}).items()}
        for name, point in points.items():
            errors |= {f"{name}mse": (point - future).square(), f"{name}mae": (point - future).abs()}
        for name, error in errors.items():
            sums[name] = sums.get(name, 0) + (error.double() * mask).sum((0, 2))
        counts = counts + mask.sum((0, 2))
    return {name: total / counts for name, total in sums.items()}
