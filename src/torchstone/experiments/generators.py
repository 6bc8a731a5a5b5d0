"""Generative models of the 8 × 8 digits for experiments: trained in seconds, compared by their samples."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset, load_images
from torchstone.engine import rng
from torchstone.engine.run import Intervals, Run, fit
from torchstone.metrics.classifier_features import FeatureClassifier
from torchstone.plots.sample_grid import unit_range
from torchstone.systems.generative import CLASSIFIER, ddpm, gan, realnvp, vae
from torchstone.tasks.diffusion import sampler
from torchstone.tasks.flow import train as flow_task
from torchstone.tasks.gan.inference import sample_images as sample_gan
from torchstone.tasks.vae.figures import sample_images as sample_vae
from torchstone.tasks.vision.feature_classifier import train_or_load_classifier

Pixels = UInt8[Tensor, "count 1 8 8"]

# binarized neither in training nor in samples, so that grays are as in the data
VAE = replace(vae.RECIPES["smoke"], binarization="none", steps=1500, batch_size=64)
GAN = replace(gan.RECIPES["smoke"], steps=2000)
FLOW = replace(realnvp.RECIPES["digits"], steps=400)
DIFFUSION = replace(
    ddpm.RECIPES["smoke"], steps=400, optim=replace(ddpm.RECIPES["smoke"].optim, ema_decay=0.98)
)
SAMPLING_STEPS = 20


class Trained(NamedTuple):
    """The network that is evaluated, and CPU seconds of its training."""

    model: Any
    seconds: float


def digits() -> ImageDataset:
    return load_images("digits", size=8, channels=1)


def digit_classifier(data: ImageDataset) -> FeatureClassifier:
    """The classifier in whose features samples of digits are compared."""
    return train_or_load_classifier(data, CLASSIFIER)


def train_all_steps(run: Run) -> Trained:
    """Train without evaluation; the averaged weights, where there are some."""
    run.evaluate, run.test, run.best_metric = dict, None, None
    run.on_evaluate = []
    began = time.process_time()
    fit(run, quiet=True, intervals=Intervals(evaluate=run.steps))
    seconds = time.process_time() - began
    ema: Any = run.state.get("ema")
    model: Any = run.state["model"] if ema is None else ema.module
    return Trained(model.eval(), seconds)


def train_system(build: Callable[[Any], Iterator[Run]], recipe: Any) -> Trained:
    (run,) = build(recipe)
    return train_all_steps(run)


def train_flow(recipe: realnvp.Recipe, data: ImageDataset) -> Trained:
    """A Real NVP of two scales, of half the width and depth of `realnvp_digits`."""
    rng.seed(recipe.seed)
    model = realnvp.RealNVP((1, 8, 8), width=16, blocks=1, couplings=3, scales=2)
    run = flow_task.train_image_flow(
        model, recipe, data, loss=realnvp.image_loss, model_config={}, classifier=CLASSIFIER
    )
    return train_all_steps(run)


def sample_diffusion(model: Any, count: int, scale: float, labels: Tensor | None, seed: int) -> Pixels:
    config = sampler.SamplingConfig(SAMPLING_STEPS, "ddim", guidance_scale=scale, seed=seed)
    return sampler.sample_images(ddpm.p_sample, model, count, config, context=labels, progress=False)


def samples_of_families(seed: int, count: int) -> dict[str, Pixels]:
    """Samples of a VAE, a GAN, a flow and a diffusion model, each trained on the digits for some seconds."""
    data = digits()
    autoencoder = train_system(vae.build, replace(VAE, seed=seed)).model
    generator = train_system(gan.build, replace(GAN, seed=seed)).model
    flow = train_flow(replace(FLOW, seed=seed), data).model
    diffusion = train_system(ddpm.build, replace(DIFFUSION, seed=seed)).model
    labels = torch.arange(count) % len(data.classes)
    return {
        "VAE": sample_vae(autoencoder, count, seed=seed),
        "GAN": sample_gan(generator, count, unit_range(data.metadata), seed=seed, show_progress=False),
        "flow": flow_task.sample_images(flow, count, FLOW.pixel_levels, seed=seed),
        "diffusion": sample_diffusion(diffusion, count, 1.0, labels, seed),
    }


def gradient_energy(images: Float[Tensor, "count 1 height width"] | Pixels) -> float:
    """Mean squared difference of neighboring pixels, which blurring reduces."""
    x = images.float() / 255
    across, down = x.diff(dim=3).square().mean(), x.diff(dim=2).square().mean()
    return (across + down).item() / 2
