"""Quantile forecasts, direct or autoregressive, and their baselines: how windows are read and evaluated."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.series.dataset import cut_windows
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
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


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean where the mask is true; 0 where it nowhere is."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


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


@torch.no_grad()
def forecast_errors(
    model: nn.Module,
    spec: ForecastSpec,
    values: Float[Tensor, "points columns"],
    observed: Bool[Tensor, "points columns"],
    starts: Int64[Tensor, " windows"],
    baselines: dict[str, PointForecaster] | None = None,
) -> dict[str, Float[Tensor, " horizon"]]:
    """Mean errors at each step of the horizon, over windows and columns, in standard deviations.

    Points that were filled in count for nothing; a step at which none was observed is NaN.

    `loss` is the quantile loss, `mse` and `mae` are those of the median, `coverage` is the share of the
    truth inside the band; `NAME_mse` and `NAME_mae` are a baseline's.
    """
    numbers = spec.horizon * values.shape[1] * len(spec.quantiles)
    numbers *= 1 if spec.is_direct else SAMPLE_PATHS
    median, sums, counts = spec.quantiles.index(0.5), {}, 0
    for batch in starts.split(max(1, MAX_NUMBERS // numbers)):
        past, future = cut_windows(values, batch, spec.context, spec.horizon)
        _, mask = cut_windows(observed, batch, spec.context, spec.horizon)
        predicted = predict_quantiles(model, spec, past)
        errors = {
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
