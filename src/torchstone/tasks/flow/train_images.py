"""Density estimation of pictures: from a flow, a recipe and pictures to a Run; of points in `rows.py`."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.data.vision.dequantized_batches import Chanced, Chances, whole
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.flow.coupling import normal
from torchstone.parts.flow.dequantization import (
    bits,
    dequantise,
    histogram,
    histogram_bits,
    logit,
    shades,
    unlogit,
)
from torchstone.plots.sample_grid import watched
from torchstone.tasks import evaluate_samples as judging
from torchstone.tasks.anomaly import usual
from torchstone.tasks.optimization import gradient_update

Each = Float[Tensor, " count"]
Pixels = UInt8[Tensor, "count channel height width"]

SHOWN = 100  # on a sheet
ROWS = 500  # looked at together


def density(
    model: Any,
    recipe: Any,
    data: ImageDataset,
    *,
    model_config: dict[str, Any],
    classifier: Any = None,
) -> Run:
    """A Run that fits a flow to pictures by maximum likelihood.

    The recipe states batch, steps, seed, variant, augment, levels, judged, optimiser, lr, momentum,
    weight_decay, schedule, warmup, clip, accumulate, ema, precision, compile. `loss` is bits a dimension;
    at the end stand beside it what a `histogram` of each pixel by itself needs, and what samples are worth
    (`quality.compared`).

    Args:
        model: a flow of real numbers; pictures are dequantised and taken through a logit first.
        model_config: what `model` was made with; kept with the weights, so that it can be made again.
        classifier: of `quality.judge`; without one, or with `judged` 0, samples are not judged.

    Raises:
        BadInput: fewer than 2 levels or more than 256; fewer than no samples judged.
    """
    if not 2 <= recipe.levels <= 256:
        raise BadInput(f"a pixel has 2 to 256 levels, not {recipe.levels}")
    if recipe.judged < 0:
        raise BadInput(f"judged must be at least 0, not {recipe.judged}")
    judges = classifier is not None and recipe.judged > 0
    dimensions, levels = data.metadata["channels"] * data.metadata["size"] ** 2, recipe.levels

    def objective(net: Any, batch: Chanced) -> Tensor:
        x, slope = logit(dequantise(batch.pictures, batch.u, levels))
        z, log_det = net(x)
        return bits(normal(z) + log_det + slope, dimensions, levels).mean()

    update, state, judged = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    batches = ImageBatches(
        data.train,
        recipe.batch_size,
        seed=recipe.seed,
        metadata=whole(data.metadata["channels"]),
        augment=make_augmentation(recipe.augment),
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )
    stream = state["stream"] = Chances(batches)
    metadata = {
        "task": "density",
        "variant": recipe.variant,
        "model_config": model_config,
        "picture": data.metadata,
        "levels": levels,
        "judged": recipe.judged,
        "data": data.description,
    }

    def evaluate() -> dict[str, float]:
        each = nats(judged, data.val, levels)
        metadata["usual"] = usual(each)  # for `predict`, which has no data beside it
        return {"loss": bits(each, dimensions, levels).mean().item()}

    def test() -> dict[str, float]:
        found = bits(nats(judged, data.test, levels), dimensions, levels).mean().item()
        figures = {"bits_per_dimension": found, "histogram": alone(data, levels)}
        if judges:
            figures |= judging.worth_of(lambda: drawn(judged, recipe.judged, levels), data, classifier)
        return figures

    def report(folder: Path) -> None:
        if judges:
            judging.shown(drawn(judged, judging.PAIRS, levels), data, classifier, folder)

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        metadata=metadata,
    )
    return watched(run, lambda: drawn(judged, SHOWN, levels))


def everything(split: ImageSplit) -> Pixels:
    return split.take(torch.arange(len(split), device=split.labels.device))


@torch.no_grad()
def nats(model: Any, split: ImageSplit | Pixels, levels: int) -> Each:
    """log density of each picture on 0..1, in evaluation mode, with noise that is always the same."""
    was_training = model.training
    model.eval()
    pictures = everything(split) if isinstance(split, ImageSplit) else split
    generator, found = torch.Generator().manual_seed(0), []
    for rows in pictures.split(ROWS):
        u = torch.rand(rows.shape, generator=generator).to(rows.device)
        x, slope = logit(dequantise(rows, u, levels))
        found.append(model.log_prob(x) + slope)
    model.train(was_training)
    return torch.cat(found)


def alone(data: ImageDataset, levels: int) -> float:
    """Bits a dimension of the test split by a histogram of each pixel of the train split."""
    table = histogram(everything(data.train), levels)
    return histogram_bits(table, everything(data.test)).mean().item()


@torch.no_grad()
def drawn(model: Any, count: int, levels: int, *, seed: int = 0, temperature: float = 1.0) -> Pixels:
    """`count` pictures from the noise of `seed`, on the CPU.

    Raises:
        NotFinite: a picture has a number that is NaN or infinite.
    """
    was_training = model.training
    model.eval()
    x = model.sample(count, seed=seed, temperature=temperature)
    model.train(was_training)
    return shades(unlogit(x)[0], levels).cpu()
