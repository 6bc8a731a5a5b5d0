"""The first stage of latent diffusion, its autoencoder; and the latents that the second stage is trained on.

    loss = mean |x − x̂| + kl_weight · KL / (numbers of an image)        Rombach et al. 2021, appendix G

The absolute error and the small weight (10⁻⁶, both terms summed over an image) are the paper's. Of its other
terms the perceptual distance needs a network trained on photographs, which is not at hand; and the patch
discriminator sharpens textures of photographs that are made 8 times smaller a side, where drawings and digits
made 2 to 4 times smaller have none to lose. Both are left out.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from torchstone.data.vision.captioned import Captioned
from torchstone.data.vision.dataset import ImageDataset, ImageSplit, normalize
from torchstone.data.vision.latent_batches import AutoencoderBatch, AutoencoderBatches, LatentBatches, Moments
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.vae.kl_autoencoder import KLAutoencoder
from torchstone.plots.sample_grid import symmetric_range
from torchstone.tasks.optimization import gradient_update, train_only
from torchstone.tasks.reconstruction import CHUNK_SIZE, psnr, reconstruction_distance, save_reconstructions
from torchstone.tasks.vision.feature_classifier import ClassifierSpec
from torchstone.tasks.vision.stream import image_batches

Pixels = UInt8[Tensor, "count channel height width"]


def check_side(autoencoder: KLAutoencoder, size: int) -> tuple[int, int, int]:
    """The shape of the latents of an image of so many pixels a side.

    Raises:
        BadInput: the side cannot be halved so often.
    """
    factor = autoencoder.config.downsampling
    if size % factor:
        raise BadInput(f"the autoencoder makes sides {factor} times smaller: {size} pixels are no multiple")
    return autoencoder.config.latent_channels, size // factor, size // factor


def train_autoencoder(
    model: Any,
    recipe: Any,
    data: ImageDataset | Captioned,
    metadata: dict[str, Any],
    classifier: ClassifierSpec | None = None,
) -> Run:
    """A Run of the first stage: `model.autoencoder`, all else in `model` being left alone.

    Of the recipe: autoencoder_steps, autoencoder_lr, kl_weight, batch_size, augment, optim, seed. Metrics:
    `loss`, `l1_loss` of pixels on −1..1, `kl` in nats an image, and of reconstructions from the mean `mse`
    and `psnr`; at the end with a classifier `reconstruction_frechet_distance`.

    Args:
        metadata: of the run that all stages make.
        classifier: whose features reconstructions are compared in, for data with classes.
    """
    autoencoder: KLAutoencoder = model.autoencoder
    picture = symmetric_range(data.metadata)
    shape = check_side(autoencoder, picture["size"])
    train_only(model, autoencoder)

    def objective(net: Any, batch: AutoencoderBatch) -> dict[str, Tensor]:
        return autoencoder_loss(net, batch, recipe.kl_weight)

    optim = dataclasses.replace(recipe.optim, lr=recipe.autoencoder_lr, ema_decay=0.0)
    update, state, _ = gradient_update(
        model,
        optim,
        objective,
        steps=recipe.autoencoder_steps,
        parameters=autoencoder.parameters(),
        forward_module=autoencoder,
    )
    stream = state["stream"] = AutoencoderBatches(image_batches(recipe, data.train, picture), shape)

    def test() -> dict[str, float]:
        return reconstruction_metrics(autoencoder, data.test, picture) | frechet_of_reconstructions(
            autoencoder, data, classifier
        )

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: reconstruction_metrics(autoencoder, data.val, picture),
        best_metric=None,  # the last: an autoencoder of so many images does not overfit
        examples=Examples(recipe.batch_size, len(data.train), len(data.val), "images"),
        state=state,
        steps=recipe.autoencoder_steps,
        test=test,
        report=lambda folder: save_sheet(autoencoder, data, folder),
        metadata=metadata,
    )


def autoencoder_loss(net: Any, batch: AutoencoderBatch, kl_weight: float) -> dict[str, Tensor]:
    """mean |x − x̂| + kl_weight · KL / (numbers of an image): both terms a number of the image."""
    reconstruction, posterior = net(batch.images, batch.epsilon)
    error, kl = (batch.images - reconstruction).abs().mean(), posterior.kl().mean()
    loss = error + kl_weight * kl / batch.images[0].numel()
    return {"loss": loss, "l1_loss": error, "kl": kl}


def rebuild(autoencoder: KLAutoencoder) -> Callable[[Tensor], Tensor]:
    """Reconstructions from the mean of the latents."""
    return lambda x: autoencoder(x)[0]


@torch.no_grad()
def reconstruction_metrics(
    autoencoder: KLAutoencoder, split: ImageSplit, picture: dict[str, Any]
) -> dict[str, float]:
    """`mse` of pixels on −1..1 and `psnr` in dB, of reconstructions from the mean; `kl` in nats an image."""
    squared, nats, count = 0.0, 0.0, 0
    with eval_mode(autoencoder):
        for rows in torch.arange(len(split), device=split.labels.device).split(CHUNK_SIZE):
            x = normalize(split.take(rows), picture)
            reconstruction, posterior = autoencoder(x)
            squared += float((reconstruction - x).square().double().sum())
            nats, count = nats + float(posterior.kl().double().sum()), count + x.numel()
    mse = squared / count
    return {"mse": mse, "psnr": psnr(mse), "kl": nats / len(split)}


def frechet_of_reconstructions(
    autoencoder: KLAutoencoder, data: ImageDataset | Captioned, classifier: ClassifierSpec | None
) -> dict[str, float]:
    """`reconstruction_frechet_distance` of the test split, which samples cannot be expected to go below; none
    without classes."""
    if classifier is None or isinstance(data, Captioned):
        return {}
    return reconstruction_distance(autoencoder, rebuild(autoencoder), [data.test], data, classifier)


def save_sheet(autoencoder: KLAutoencoder, data: ImageDataset | Captioned, folder: Path) -> None:
    """`rebuilt.png`: images of the test split, and below each its reconstruction."""
    picture = symmetric_range(data.metadata)
    save_reconstructions(autoencoder, rebuild(autoencoder), data.test, picture, folder / "rebuilt.png")


# ------------------------------------------------------------------------------ for the second stage


@torch.no_grad()
def encode_split(autoencoder: KLAutoencoder, split: ImageSplit, picture: dict[str, Any]) -> Moments:
    """The distributions of all latents of a split, computed once."""
    means, logvars = [], []
    with eval_mode(autoencoder):
        for rows in torch.arange(len(split), device=split.labels.device).split(CHUNK_SIZE):
            mean, logvar = autoencoder.encode(normalize(split.take(rows), picture))
            means.append(mean)
            logvars.append(logvar)
    return Moments(torch.cat(means), torch.cat(logvars), split.labels)


def latent_batches(autoencoder: KLAutoencoder, recipe: Any, data: ImageDataset | Captioned) -> LatentBatches:
    """The second stage's batches: the autoencoder's latents of the training split, scaled to a standard
    deviation of 1. The scale is measured here, of all of them, and kept in the autoencoder.

    Of the recipe: batch_size, seed. Augmentation is the first stage's alone: latents are computed once.

    Raises:
        BadInput: the latents do not vary, or are not finite.
    """
    moments = encode_split(autoencoder, data.train, symmetric_range(data.metadata))
    std = latent_std(moments)
    if not 0 < std < torch.inf:
        raise BadInput(f"the latents have a standard deviation of {std}: train the autoencoder for longer")
    autoencoder.latent_scale.fill_(1 / std)
    scale = autoencoder.latent_scale.clone()
    return LatentBatches(moments, recipe.batch_size, scale=scale, seed=recipe.seed, **parallel.share())


def latent_std(moments: Moments) -> float:
    """Of sampled latents: the variance of their means, and the mean of their variances."""
    mean, logvar = moments.mean.double(), moments.logvar.double()
    return float((mean.var(correction=0) + logvar.exp().mean()).sqrt())
