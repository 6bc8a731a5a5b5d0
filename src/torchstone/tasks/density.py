"""Density estimation: from a flow, a recipe and pictures or points to a Run."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.parts.coupling import normal
from torchstone.parts.dequantise import (
    bits,
    dequantise,
    histogram,
    histogram_bits,
    logit,
    shades,
    unlogit,
)
from torchstone.parts.kernel import log_kernel_density
from torchstone.streams.augment import from_name
from torchstone.streams.batches import Batches
from torchstone.streams.chance import Chanced, Chances, whole
from torchstone.streams.images import Pictures, PictureSet
from torchstone.streams.points import Draws, Points
from torchstone.tasks.descent import descent
from torchstone.tasks.plane import painted, portrait
from torchstone.tasks.rarity import usual
from torchstone.tasks.samples import watched

Each = Float[Tensor, " count"]
Pixels = UInt8[Tensor, "count channel height width"]

SHOWN = 100  # on a sheet
ROWS = 500  # looked at together
FINE = 1000  # points of validation that the kernels' width is chosen on
WIDTHS = torch.logspace(-2, 0, 25).tolist()  # of the kernels, in standard deviations of the data


def density(model: Any, recipe: Any, data: PictureSet, *, arguments: dict[str, Any]) -> Run:
    """A Run that fits a flow to pictures by maximum likelihood.

    The recipe states batch, steps, seed, variant, augment, levels, optimiser, lr, momentum, weight_decay,
    schedule, warmup, clip, accumulate, ema, precision, compile. `loss` is bits a dimension; at the end
    stands beside it what a histogram of each pixel by itself needs.

    Args:
        model: a flow of real numbers; pictures are dequantised and taken through a logit first.
        arguments: what `model` was made with; kept with the weights, so that it can be made again.
    """
    dimensions, levels = data.card["channels"] * data.card["size"] ** 2, recipe.levels

    def objective(net: Any, batch: Chanced) -> Tensor:
        x, slope = logit(dequantise(batch.pictures, batch.u, levels))
        z, log_det = net(x)
        return bits(normal(z) + log_det + slope, dimensions, levels).mean()

    update, state, judged = descent(model, recipe, objective)
    batches = Batches(
        data.train,
        recipe.batch,
        seed=recipe.seed,
        card=whole(data.card["channels"]),
        augment=from_name(recipe.augment),
        rank=parallel.rank(),
        world=parallel.world(),
    )
    stream = state["stream"] = Chances(batches)
    card = {
        "task": "density",
        "variant": recipe.variant,
        "arguments": arguments,
        "picture": data.card,
        "levels": levels,
        "data": data.note,
    }

    def evaluate() -> dict[str, float]:
        each = nats(judged, data.val, levels)
        card["usual"] = usual(each)  # for `predict`, which has no data beside it
        return {"loss": bits(each, dimensions, levels).mean().item()}

    def test() -> dict[str, float]:
        found = bits(nats(judged, data.test, levels), dimensions, levels).mean().item()
        return {"bits_per_dimension": found, "histogram": alone(data, levels)}

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        state=state,
        steps=recipe.steps,
        test=test,
        card=card,
    )
    return watched(run, lambda: drawn(judged, SHOWN, levels))


def everything(split: Pictures) -> Pixels:
    return split.take(torch.arange(len(split), device=split.labels.device))


@torch.no_grad()
def nats(model: Any, split: Pictures | Pixels, levels: int) -> Each:
    """log density of each picture on 0..1, in evaluation mode, with noise that is always the same."""
    was_training = model.training
    model.eval()
    pictures = everything(split) if isinstance(split, Pictures) else split
    generator, found = torch.Generator().manual_seed(0), []
    for rows in pictures.split(ROWS):
        u = torch.rand(rows.shape, generator=generator).to(rows.device)
        x, slope = logit(dequantise(rows, u, levels))
        found.append(model.log_prob(x) + slope)
    model.train(was_training)
    return torch.cat(found)


def alone(data: PictureSet, levels: int) -> float:
    """Bits a dimension of the test split by a histogram of each pixel of the train split."""
    table = histogram(everything(data.train), levels)
    return histogram_bits(table, everything(data.test)).mean().item()


@torch.no_grad()
def drawn(
    model: Any, count: int, levels: int, *, seed: int = 0, temperature: float = 1.0
) -> Pixels:
    """`count` pictures from the noise of `seed`, on the CPU.

    Raises:
        NotFinite: a picture has a number that is NaN or infinite.
    """
    was_training = model.training
    model.eval()
    x = model.sample(count, seed=seed, temperature=temperature)
    model.train(was_training)
    return shades(unlogit(x)[0], levels).cpu()


def density_of_points(model: Any, recipe: Any, points: Points, *, arguments: dict[str, Any]) -> Run:
    """A Run that fits a flow to rows of numbers; as `density`, without augment and levels.

    `loss` is −log p in nats a row, `kernels` the same by a Gaussian on each training point, as wide as
    suits the validation split best, and `behind` how much the flow needs more than that.
    """

    def objective(net: Any, rows: Tensor) -> Tensor:
        z, log_det = net(rows)
        return -(normal(z) + log_det).mean()

    update, state, judged = descent(model, recipe, objective)
    shares = {"rank": parallel.rank(), "world": parallel.world()}
    stream = state["stream"] = Draws(points.train, recipe.batch, seed=recipe.seed, **shares)
    card = {
        "task": "density",
        "variant": recipe.variant,
        "arguments": arguments,
        "features": list(points.features),
        "data": points.note,
    }

    def evaluate() -> dict[str, float]:
        each = of_rows(judged, points.val)
        card["usual"] = usual(each)
        return {"loss": -each.mean().item()}

    def test() -> dict[str, float]:
        loss, kernels = -of_rows(judged, points.test).mean().item(), kernel_loss(points)
        return {"loss": loss, "kernels": kernels, "behind": loss - kernels}

    plane = len(points.features) == 2

    def report(folder: Path) -> None:
        if plane:
            portrait(judged, points.test, points.features, folder / "density.png")

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        card=card,
    )
    return watched(run, lambda: painted(judged, points.test), columns=2) if plane else run


@torch.no_grad()
def of_rows(model: nn.Module, rows: Float[Tensor, "count numbers"]) -> Each:
    """log density of each row, in nats."""
    was_training = model.training
    model.eval()
    each = model.log_prob(rows)  # ty: ignore[call-non-callable]
    model.train(was_training)
    return each


def kernel_loss(points: Points) -> float:
    """−log density of the test rows, in nats a row, by kernels on the training rows (standardised)."""
    mean, std = torch.tensor(points.mean).double(), torch.tensor(points.std).double()
    train, val, test = (
        (each.cpu().double() - mean) / std for each in (points.train, points.val, points.test)
    )
    fine = [log_kernel_density(val[:FINE], train, width).mean().item() for width in WIDTHS]
    best = WIDTHS[fine.index(max(fine))]
    return -(log_kernel_density(test, train, best).mean() - std.log().sum()).item()
