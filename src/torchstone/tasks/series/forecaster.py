"""Forecasts of a recurrent network, and of what it must beat: how windows are read, told and judged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.series.dataset import cut_windows
from torchstone.errors import BadInput
from torchstone.parts.series.quantile_loss import inside_band, interpolate_quantiles, sort_quantiles, pinball

SAMPLE_PATHS = 64  # futures drawn for each window, where one step is told at a time
MAX_NUMBERS = 2**22  # that are told at a time when many windows are judged

Past = Float[Tensor, "batch context columns"]
Future = Float[Tensor, "batch horizon columns"]
Quantiles = Float[Tensor, "batch horizon columns quantiles"]
PointForecaster = Callable[[Past], Future]


@dataclass(frozen=True)
class ForecastSpec:
    """How a window is read and told.

    Args:
        patch: points that one step of the network reads (Lin et al. 2023, arXiv:2308.11200).
        ahead: `direct`, the whole horizon from the last state, or `steps`, one point from each.
        together: one state reads all columns; else each column is a series of its own.
        season: points in a season, 0 where none fits the context.

    Raises:
        BadInput: what does not go together.
    """

    context: int
    horizon: int
    patch: int
    ahead: str
    together: bool
    quantiles: tuple[float, ...]
    season: int = 0

    def __post_init__(self):
        levels = self.quantiles
        inside = all(0 < level < 1 for level in levels)
        if not levels or not inside or list(levels) != sorted(set(levels)):
            raise BadInput(f"quantiles rise between 0 and 1, such as 0.1,0.5,0.9, not {levels}")
        if 0.5 not in levels or len(levels) < 2:
            raise BadInput(f"among the quantiles must be 0.5, the forecast itself, not {levels}")
        if min(self.context, self.horizon, self.patch) < 1 or self.context % self.patch:
            raise BadInput(
                f"a length of {self.context} cannot be read {self.patch} points at a time, to look "
                f"{self.horizon} ahead: make length a multiple of patch"
            )
        if self.ahead == "steps" and self.patch > 1:
            raise BadInput(f"step by step goes with patch 1, not {self.patch}")

    def sizes(self, columns: int) -> tuple[int, int]:
        """Numbers that a step of the network reads, and that it tells."""
        width = columns if self.together else 1
        told = width * len(self.quantiles)
        return self.patch * width, told * (self.horizon if self.ahead == "direct" else 1)

    def rows(self, x: Past) -> Float[Tensor, "rows context width"]:
        """One row a window, or one a window and column."""
        return x if self.together else x.transpose(1, 2).reshape(-1, x.shape[1], 1)

    def windows(self, told: Float[Tensor, "rows horizon width quantiles"], columns: int) -> Quantiles:
        """What `rows` did, undone."""
        if self.together:
            return told
        return told.squeeze(2).unflatten(0, (-1, columns)).transpose(1, 2)


def loss(net: Any, how: ForecastSpec, past: Past, future: Future) -> Tensor:
    """The mean quantile loss: of the horizon, or step by step of every point but the first."""
    if how.ahead == "direct":
        return pinball(direct(net, how, past), future, how.quantiles).mean()
    last = how.rows(past)[:, -1:]
    x = how.rows(torch.cat([past, future], 1))
    told = _each(net(x[:, :-1] - last), how) + x[:, :-1, :, None]
    return pinball(told, x[:, 1:], how.quantiles).mean()


def direct(net: Any, how: ForecastSpec, past: Past) -> Quantiles:
    """The horizon at once, told as changes from the last value, which is taken off what is read
    too (Zeng et al. 2022, arXiv:2205.13504, section 4.1, NLinear): a series may drift."""
    x = how.rows(past)
    last = x[:, -1:]
    read = (x - last).reshape(len(x), how.context // how.patch, -1)
    told = net(read).view(len(x), how.horizon, x.shape[2], len(how.quantiles))
    return how.windows(told + last[..., None], past.shape[2])


def _each(y: Tensor, how: ForecastSpec) -> Float[Tensor, "rows *time width quantiles"]:
    return y.unflatten(-1, (-1, len(how.quantiles)))


def autoregressive(model: Any, how: ForecastSpec, past: Past, horizon: int) -> Quantiles:
    """Many futures, each drawn point by point from the quantiles told, and their quantiles.

    Draws are the same ones for every call. Columns of one state are drawn apart.
    """
    generator = torch.Generator().manual_seed(0)
    x = how.rows(past)
    last = x[:, -1:]
    y, state = model.step(x - last)
    told = _each(y[:, -1], how) + x[:, -1, :, None]
    state = tuple(each.repeat_interleave(SAMPLE_PATHS, 1) for each in state)
    last, told = last.repeat_interleave(SAMPLE_PATHS, 0), told.repeat_interleave(SAMPLE_PATHS, 0)
    paths = []
    for _ in range(horizon):
        at = torch.rand(told.shape[:-1], generator=generator).to(past.device)
        value = interpolate_quantiles(sort_quantiles(told), how.quantiles, at)
        paths.append(value)
        y, state = model.step(value[:, None] - last, state)
        told = _each(y[:, 0], how) + value[..., None]
    futures = torch.stack(paths, 1).unflatten(0, (-1, SAMPLE_PATHS))
    levels = torch.tensor(how.quantiles, device=past.device)
    return how.windows(futures.quantile(levels, dim=1).movedim(0, -1), past.shape[2])


@torch.no_grad()
def predict_quantiles(model: nn.Module, how: ForecastSpec, past: Past, horizon: int | None = None) -> Quantiles:
    """Quantiles of each point ahead, none crossing another.

    Raises:
        BadInput: a horizon beyond what the network tells at once.
    """
    horizon = how.horizon if horizon is None else horizon
    if how.ahead == "direct" and horizon > how.horizon:
        raise BadInput(
            f"the model tells {how.horizon} steps at once, not {horizon}: give a smaller horizon, or "
            "train one with a larger one, or with --ahead steps"
        )
    was_training = model.training
    model.eval()
    if how.ahead == "direct":
        found = sort_quantiles(direct(model, how, past)[:, :horizon])
    else:
        found = autoregressive(model, how, past, horizon)
    model.train(was_training)
    return found


def naive_baselines(how: ForecastSpec) -> dict[str, PointForecaster]:
    """Forecasts that need no training: the last value, and the last season, again and again."""
    ahead = torch.arange(how.horizon)
    repeat: PointForecaster = lambda past: past[:, -1:].expand(-1, how.horizon, -1)  # noqa: E731
    if not how.season:
        return {"repeat": repeat}
    return {
        "repeat": repeat,
        "seasonal": lambda past: past[:, -how.season :][:, ahead % how.season],
    }


@torch.no_grad()
def forecast_errors(
    model: nn.Module,
    how: ForecastSpec,
    values: Float[Tensor, "points columns"],
    starts: Int64[Tensor, " windows"],
    others: dict[str, PointForecaster] | None = None,
) -> dict[str, Float[Tensor, " horizon"]]:
    """Mean errors at each step ahead, over windows and columns, in units of the standard deviation.

    `loss` is the quantile loss, `mse` and `mae` are those of the median, `coverage` is the share of
    the truth inside the band; `NAME_mse` and `NAME_mae` are other forecasters'.
    """
    each = how.horizon * values.shape[1] * len(how.quantiles)
    each *= SAMPLE_PATHS if how.ahead == "steps" else 1
    middle, sums = how.quantiles.index(0.5), {}
    for some in starts.split(max(1, MAX_NUMBERS // each)):
        past, future = cut_windows(values, some, how.context, how.horizon)
        band = predict_quantiles(model, how, past)
        found = {
            "loss": pinball(band, future, how.quantiles).mean(-1),
            "coverage": inside_band(band, future).to(future.dtype),
        }
        points = {"": band[..., middle]}
        points |= {f"{name}_": other(past) for name, other in (others or {}).items()}
        for name, point in points.items():
            found |= {f"{name}mse": (point - future).square(), f"{name}mae": (point - future).abs()}
        for name, error in found.items():
            sums[name] = sums.get(name, 0) + error.double().sum(0).mean(-1)
    return {name: total / len(starts) for name, total in sums.items()}
