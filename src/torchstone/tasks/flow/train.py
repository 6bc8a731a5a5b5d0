"""Maximum-likelihood training of flows on images or points, with baselines."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.tabular.points import PointBatches, Points
from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.data.vision.dequantized_batches import (
    LikelihoodBatch,
    LikelihoodBatches,
    all_images,
    identity_stats,
)
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.flow.likelihood import (
    bits_per_dim,
    histogram_bits_per_dim,
    inverse_logit,
    log_kernel_density,
    pixel_histogram,
    to_uint8,
)
from torchstone.parts.modes import eval_mode
from torchstone.plots.density_2d import MAX_POINTS, RESOLUTION, density_images, plot_density
from torchstone.plots.sample_grid import log_samples, save_final_samples
from torchstone.tasks.anomaly import score_quantiles
from torchstone.tasks.evaluate_samples import NUM_PAIRS, evaluate_samples, save_nearest_samples
from torchstone.tasks.flow.dequantization import sample_dequantized
from torchstone.tasks.flow.latents import (
    NUM_PATHS,
    class_latents,
    num_mean_images,
    save_directions,
    save_interpolations,
)
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.vision.feature_classifier import ClassifierSpec
from torchstone.tasks.vision.stream import image_batches

PerImage = Float[Tensor, " count"]
PerPoint = Float[Tensor, " count"]
Pixels = UInt8[Tensor, "count channel height width"]

GRID_SIZE = 100  # samples on a grid
CHUNK_SIZE = 500  # images whose likelihood is computed at a time
FRAME_CELLS = 60  # a side of the density in training, which is drawn finer at the end
BANDWIDTH_POINTS = 500  # validation points that the kernel bandwidth is chosen on
BANDWIDTHS = torch.logspace(-2, 0, 25).tolist()  # candidates, in standard deviations of the data


# ------------------------------------------------------------------------------------------ images


def train_image_flow(
    model: Any,
    recipe: Any,
    data: ImageDataset,
    *,
    loss: Callable[[Any, LikelihoodBatch, int], Tensor],
    model_config: dict[str, Any],
    classifier: ClassifierSpec,
    keeps_class_latents: bool = False,
    noise_shape: tuple[int, ...] | None = None,
    importance_samples: int = 0,
) -> Run:
    """A Run that fits a flow to images by maximum likelihood.

    Of the recipe: pixel_levels, eval_samples. Metrics: `loss` in bits per dimension; at the end
    `bits_per_dimension`, that of a `histogram` of each pixel, and `sample_metrics`.

    Args:
        model: a flow of unbounded numbers; images are dequantized and mapped through a logit first.
        loss: (network, batch, levels) -> the scalar to minimize.
        model_config: constructor arguments of `model`, saved with the weights.
        classifier: whose features samples are compared in, if `eval_samples` is not 0.
        keeps_class_latents: save the mean latent of each class, along whose differences `sample` then moves
            images; and pictures of that and of interpolations.
        noise_shape: of the normal noise of each image that `loss` takes; by default there is none.
        importance_samples: of dequantization noise in the `importance_bound` of the test (0: none).

    Raises:
        BadInput: fewer than 2 levels or more than 256; a negative number of samples.
    """
    if not 2 <= recipe.pixel_levels <= 256:
        raise BadInput(f"a pixel has 2 to 256 levels, not {recipe.pixel_levels}")
    if recipe.eval_samples < 0:
        raise BadInput(f"eval_samples must be at least 0, not {recipe.eval_samples}")
    if importance_samples < 0:
        raise BadInput(f"importance_samples must be at least 0, not {importance_samples}")
    dimensions, levels = data.metadata["channels"] * data.metadata["size"] ** 2, recipe.pixel_levels

    # a sample is an inverse pass, as expensive as a forward pass
    evaluation_work = len(data.val) + GRID_SIZE + (num_mean_images(data) if keeps_class_latents else 0)
    update, state, eval_model = gradient_update(
        model, recipe.optim, lambda net, batch: loss(net, batch, levels), steps=recipe.steps
    )
    batches = image_batches(recipe, data.train, identity_stats(data.metadata["channels"]))
    stream = state["stream"] = LikelihoodBatches(batches, noise_shape)

    def mean_bits(log_prob: PerImage) -> float:
        return bits_per_dim(log_prob, dimensions, levels).mean().item()

    def evaluate() -> dict[str, float]:
        log_prob = image_log_prob(eval_model, data.val, levels)
        run.calibration["score_quantiles"] = score_quantiles(log_prob)  # for `predict`
        if keeps_class_latents:
            run.calibration["class_latents"] = class_latents(eval_model, data, levels)  # for `sample`
        return {"loss": mean_bits(log_prob)}

    def test() -> dict[str, float]:
        bits = mean_bits(image_log_prob(eval_model, data.test, levels))
        metrics = {"bits_per_dimension": bits, "histogram": histogram_baseline(data, levels)}
        if importance_samples:
            bound = image_log_prob(eval_model, data.test, levels, importance_samples)
            metrics["importance_bound"] = mean_bits(bound)
        if recipe.eval_samples:
            metrics |= evaluate_samples(
                lambda: sample_images(eval_model, recipe.eval_samples, levels), data, classifier
            )
        return metrics

    def sample() -> Pixels:
        return sample_images(eval_model, GRID_SIZE, levels)

    def report(folder: Path) -> None:
        if recipe.eval_samples:
            pairs = sample_images(eval_model, NUM_PAIRS, levels)
            save_nearest_samples(pairs, data, classifier, folder)
        if keeps_class_latents:
            ends = data.test.take(torch.arange(2 * NUM_PATHS).clamp(max=len(data.test) - 1))
            save_interpolations(eval_model, ends, levels, folder / "interpolation.png")
            means = class_latents(eval_model, data, levels)
            save_directions(eval_model, data, means, levels, folder / "directions.png")
        save_final_samples(sample(), folder)

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric="loss",
        examples=Examples(
            recipe.batch_size, len(data.train), len(data.val), "images", evaluation=evaluation_work
        ),
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        metadata={
            "task": "density",
            "variant": recipe.variant,
            "model_config": model_config,
            "picture": data.metadata,
            "pixel_levels": levels,
            "eval_samples": recipe.eval_samples,
            "importance_samples": importance_samples,
            "data": data.description,
        },
    )
    return log_samples(run, sample)


@torch.no_grad()
def image_log_prob(model: Any, split: ImageSplit | Pixels, levels: int, num_samples: int = 1) -> PerImage:
    """log density of each image on 0..1, in evaluation mode, with noise that is always the same.

    Args:
        num_samples: M of log 1/M Σ p(y_m) / q(u_m | image), a bound that is closer the more samples it has
            (Burda, Grosse and Salakhutdinov 2015, arXiv:1509.00519, equation 8).
    """
    images = all_images(split) if isinstance(split, ImageSplit) else split
    generator, chunks = torch.Generator().manual_seed(0), []
    with eval_mode(model):
        for rows in images.split(CHUNK_SIZE):
            bounds = []
            for _ in range(num_samples):
                x, log_weight = sample_dequantized(model, rows, levels, generator)
                bounds.append(model.log_prob(x) + log_weight)
            chunks.append(torch.stack(bounds).logsumexp(0) - math.log(num_samples))
    return torch.cat(chunks)


def histogram_baseline(data: ImageDataset, levels: int) -> float:
    """Bits per dimension of the test split under a histogram of each pixel of the train split."""
    table = pixel_histogram(all_images(data.train), levels)
    return histogram_bits_per_dim(table, all_images(data.test)).mean().item()


@torch.no_grad()
def sample_images(model: Any, count: int, levels: int, *, seed: int = 0, temperature: float = 1.0) -> Pixels:
    """`count` samples from the noise of `seed`, on the CPU.

    Raises:
        NotFinite: one of them has a number that is NaN or infinite.
    """
    with eval_mode(model):
        x = model.sample(count, seed=seed, temperature=temperature)
    return to_uint8(inverse_logit(x)[0], levels).cpu()


# ------------------------------------------------------------------------------------------ points


def train_point_flow(
    model: Any,
    recipe: Any,
    points: Points,
    *,
    loss: Callable[[Any, Tensor], Tensor],
    model_config: dict[str, Any],
) -> Run:
    """A Run that fits a flow to rows of features by maximum likelihood.

    Metrics: `loss`, −log p in nats a row; at the end also `kde_loss`, that of kernel density estimation, and
    `gap_to_kde`, how much the flow needs beyond it.
    """
    update, state, eval_model = gradient_update(model, recipe.optim, loss, steps=recipe.steps)
    stream = state["stream"] = PointBatches(
        points.train, recipe.batch_size, seed=recipe.seed, **parallel.share()
    )

    def evaluate() -> dict[str, float]:
        log_prob = point_log_prob(eval_model, points.val)
        run.calibration["score_quantiles"] = score_quantiles(log_prob)  # for `predict`
        return {"loss": -log_prob.mean().item()}

    def test() -> dict[str, float]:
        nll, baseline = -point_log_prob(eval_model, points.test).mean().item(), kde_loss(points)
        return {"loss": nll, "kde_loss": baseline, "gap_to_kde": nll - baseline}

    def sample(cells: int = RESOLUTION) -> Pixels:
        return density_images(eval_model, points.test, cells)

    is_plane = len(points.features) == 2

    def report(folder: Path) -> None:
        if is_plane:
            plot_density(eval_model, points.test, points.features, folder / "density.png")
            save_final_samples(sample(), folder, columns=2)

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric="loss",
        examples=Examples(
            recipe.batch_size,
            len(points.train),
            len(points.val),
            "points",
            evaluation=len(points.val) + (FRAME_CELLS**2 + MAX_POINTS if is_plane else 0),
        ),
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        metadata={
            "task": "density",
            "variant": recipe.variant,
            "model_config": model_config,
            "features": list(points.features),
            "data": points.description,
        },
    )
    return log_samples(run, lambda: sample(FRAME_CELLS), columns=2) if is_plane else run


@torch.no_grad()
def point_log_prob(model: Any, rows: Float[Tensor, "count numbers"]) -> PerPoint:
    """log density of each row, in nats, in evaluation mode."""
    with eval_mode(model):
        return model.log_prob(rows)


def kde_loss(points: Points) -> float:
    """−log density of the test rows in nats a row, by Gaussian kernels on the training rows (standardized),
    whose bandwidth suits the validation rows best."""
    mean, std = torch.tensor(points.mean).double(), torch.tensor(points.std).double()
    train, val, test = (
        (each.cpu().double() - mean) / std for each in (points.train, points.val, points.test)
    )
    val = val[:BANDWIDTH_POINTS]
    scores = [log_kernel_density(val, train, bandwidth).mean().item() for bandwidth in BANDWIDTHS]
    best = BANDWIDTHS[scores.index(max(scores))]
    return -(log_kernel_density(test, train, best).mean() - std.log().sum()).item()
