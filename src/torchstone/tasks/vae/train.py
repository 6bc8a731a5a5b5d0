"""Training of a variational autoencoder: from a network, its loss, a recipe and images to a Run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset
from torchstone.data.vision.dequantized_batches import (
    LikelihoodBatch,
    LikelihoodBatches,
    all_images,
    identity_stats,
)
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.indices import spread_over_classes
from torchstone.parts.modes import eval_mode
from torchstone.parts.vae.elbo import (
    bernoulli_log_prob,
    iwae_bound,
    kl_to_prior,
    log_importance_weights,
    reparameterize,
)
from torchstone.plots.sample_grid import log_samples, save_final_samples, unit_range
from torchstone.tasks.anomaly import score_quantiles
from torchstone.tasks.evaluate_samples import NUM_PAIRS, evaluate_samples, save_nearest_samples
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.vae.figures import (
    sample_images,
    save_inpaintings,
    save_interpolations,
    save_latent_grid,
    save_reconstructions,
)
from torchstone.tasks.vision.feature_classifier import ClassifierSpec
from torchstone.tasks.vision.stream import image_batches

Pixels = UInt8[Tensor, "count channel height width"]
Images = Float[Tensor, "count channel height width"]
PerImage = Float[Tensor, " count"]

MAX_SHOWN = 2000  # images that the pictures at the end are made of
GRID_SIZE = 100  # samples on a grid
CHUNK_SIZE = 1000  # latent samples at a time
FEW_SAMPLES, MANY_SAMPLES = 5, 50  # latent samples of the bounds, in validation and at the end
ACTIVE_VARIANCE = 0.01  # variance of a latent's mean over images, above which it counts as active
BINARIZATIONS = ("stochastic", "threshold", "none")


def binarize(images: Images, u: Images, binarization: str) -> Images:
    """The pixels to be modeled, 0..1: 1 with the probability of their gray level (`stochastic`), 1 from the
    middle gray up (`threshold`), or the gray level itself (`none`), with which the bound is no likelihood.

    Args:
        images: from 0 to 255.
        u: uniform noise on 0..1.
    """
    x = images / 255
    if binarization == "stochastic":
        return (u < x).to(x.dtype)
    return (x >= 0.5).to(x.dtype) if binarization == "threshold" else x


def fixed_binarization(images: Pixels, binarization: str) -> Images:
    """`binarize`, with noise that is always the same."""
    u = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    return binarize(images.float(), u.to(images.device), binarization)


def validate(recipe: Any) -> None:
    """Raises `BadInput` for fields that make no objective."""
    if recipe.latent_samples < 1:
        raise BadInput(f"latent_samples must be at least 1, not {recipe.latent_samples}")
    if recipe.eval_samples < 0:
        raise BadInput(f"eval_samples must be at least 0, not {recipe.eval_samples}")
    if not 0 <= recipe.beta < float("inf") or not 0 <= recipe.free_bits < float("inf"):
        raise BadInput("beta and free_bits are numbers of at least 0")
    if recipe.use_iwae and (recipe.beta != 1 or recipe.free_bits):
        raise BadInput("the IWAE bound has no KL term: leave beta 1 and free_bits 0")


def train_vae(
    model: Any,
    recipe: Any,
    data: ImageDataset,
    *,
    loss: Callable[[Any, Images, Tensor, Any], dict[str, Tensor]],
    model_config: dict[str, Any],
    classifier: ClassifierSpec,
) -> Run:
    """A Run that maximizes a lower bound on the likelihood of images.

    Of the recipe: binarization, beta, free_bits, latent_samples, use_iwae, eval_samples. Metrics: `elbo` in
    nats an image, and its `kl`; at the end also the bounds `iwae_5` and `iwae_50`, the number of
    `active_latents`, the log-likelihood of `independent_pixels`, and `sample_metrics`.

    Args:
        model: (x, epsilon) -> (logits, mean, logvar), with `encode`, `decode` and `sample`; z has
            `latent_dim` numbers.
        loss: (network, x, epsilon, recipe) -> metrics with the `loss` to minimize.
        model_config: constructor arguments of `model`, saved with the weights.
        classifier: whose features samples are compared in, if `eval_samples` is not 0.

    Raises:
        BadInput: fields that make no objective.
    """
    validate(recipe)

    def objective(net: Any, batch: LikelihoodBatch) -> dict[str, Tensor]:
        assert batch.epsilon is not None
        return loss(net, binarize(batch.images, batch.u, recipe.binarization), batch.epsilon, recipe)

    update, state, eval_model = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    batches = image_batches(recipe, data.train, identity_stats(data.metadata["channels"]))
    stream = state["stream"] = LikelihoodBatches(batches, (recipe.latent_samples, model.latent_dim))

    def evaluate() -> dict[str, float]:
        stats = encode_all(eval_model, all_images(data.val), recipe.binarization, FEW_SAMPLES)
        run.calibration["score_quantiles"] = score_quantiles(stats.elbo)  # for `predict`
        return {"elbo": mean(stats.elbo), "kl": mean(stats.kl.sum(1))}

    def test() -> dict[str, float]:
        metrics = evaluate_bounds(eval_model, all_images(data.test), recipe.binarization)
        metrics["independent_pixels"] = independent_pixel_log_prob(data, recipe.binarization)
        if recipe.eval_samples:
            metrics |= evaluate_samples(
                lambda: sample_images(eval_model, recipe.eval_samples), data, classifier
            )
        return metrics

    def sample() -> Pixels:
        return sample_images(eval_model, GRID_SIZE)

    def report(folder: Path) -> None:
        rows = spread_over_classes(data.test.labels, MAX_SHOWN).to(data.test.labels.device)
        x = fixed_binarization(all_images(data.test)[rows], recipe.binarization)
        save_reconstructions(eval_model, x, folder / "rebuilt.png")
        save_interpolations(eval_model, x, folder / "interpolation.png")
        save_latent_grid(eval_model, x, folder / "plane.png")
        save_inpaintings(eval_model, x, folder / "filled.png")
        if recipe.eval_samples:
            save_nearest_samples(sample_images(eval_model, NUM_PAIRS), data, classifier, folder)
        save_final_samples(sample(), folder)

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric="elbo",
        examples=Examples(
            recipe.batch_size,
            len(data.train),
            len(data.val),
            "images",
            # an image is encoded once and decoded from each of its latent samples, at about the same cost
            evaluation=(len(data.val) * (1 + FEW_SAMPLES) + GRID_SIZE) / (1 + recipe.latent_samples),
        ),
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        metadata={
            "task": "autoencode",
            "variant": recipe.variant,
            "model_config": model_config,
            "picture": unit_range(data.metadata),
            "binarization": recipe.binarization,
            "eval_samples": recipe.eval_samples,
            "data": data.description,
        },
    )
    return log_samples(run, sample)


def mean(values: Tensor) -> float:
    return values.double().mean().item()


class LatentStats(NamedTuple):
    """Of each image: its ELBO, the KL of each latent, the mean code, and the log importance weight
    log p(x, z) − log q(z|x) of each latent sample."""

    elbo: PerImage
    kl: Float[Tensor, "count latent"]
    mean: Float[Tensor, "count latent"]
    log_weights: Float[Tensor, "count samples"]


@torch.no_grad()
def encode_all(model: Any, images: Pixels, binarization: str, samples: int) -> LatentStats:
    """In evaluation mode, with noise that is always the same; the result is on the CPU."""
    generator, chunks = torch.Generator().manual_seed(1), []
    with eval_mode(model):
        for x in fixed_binarization(images, binarization).split(max(1, CHUNK_SIZE // samples)):
            epsilon = torch.randn(len(x), samples, model.latent_dim, generator=generator).to(x.device)
            logits, mean, logvar = model(x, epsilon)
            log_likelihood, kl = bernoulli_log_prob(logits, x), kl_to_prior(mean, logvar)
            z = reparameterize(mean, logvar, epsilon)
            log_weights = log_importance_weights(log_likelihood, z, epsilon, logvar)
            stats = LatentStats(log_likelihood.mean(1) - kl.sum(1), kl, mean, log_weights)
            chunks.append([each.cpu() for each in stats])
    return LatentStats(*map(torch.cat, zip(*chunks, strict=True)))


def evaluate_bounds(model: Any, images: Pixels, binarization: str) -> dict[str, float]:
    """The ELBO and the IWAE bounds of 5 and 50 samples in nats an image, from the same samples; the KL; and
    the number of active latents (Burda et al. 2015, section 5)."""
    stats = encode_all(model, images, binarization, MANY_SAMPLES)
    groups = stats.log_weights.double().unflatten(1, (-1, FEW_SAMPLES)).transpose(0, 1)
    return {
        "elbo": mean(stats.elbo),
        "iwae_5": mean(torch.stack([iwae_bound(each) for each in groups.unbind(0)])),
        "iwae_50": mean(iwae_bound(stats.log_weights.double())),
        "kl": mean(stats.kl.sum(1)),
        "active_latents": float((stats.mean.var(0) > ACTIVE_VARIANCE).sum()),
    }


def independent_pixel_log_prob(data: ImageDataset, binarization: str) -> float:
    """log p of a test image in nats, with independent pixels of their frequencies in the train split."""
    frequency = all_images(data.train).double().mean(0) / 255
    if binarization == "threshold":
        frequency = (all_images(data.train) >= 127.5).double().mean(0)
    count = len(data.train)
    logits = torch.logit((frequency * count + 0.5) / (count + 1))
    x = fixed_binarization(all_images(data.test), binarization).double()
    return mean(bernoulli_log_prob(logits.expand_as(x), x))
