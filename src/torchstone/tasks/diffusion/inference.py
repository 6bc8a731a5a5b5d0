"""Inference with a trained diffusion model: conditional samples, inpainting, and its metrics."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from torchstone.data.text.tokenizers import from_metadata
from torchstone.data.vision.captioned import Captioned, load_captioned, token_ids, tokenize_prompt
from torchstone.data.vision.dataset import ImageDataset, ImageSplit, load_images
from torchstone.data.vision.preprocess import preprocess
from torchstone.engine.console import notify
from torchstone.errors import BadInput
from torchstone.hub.inception import load_inception
from torchstone.metrics import memorization
from torchstone.metrics.classifier_features import ClassifierFeatures, FeatureClassifier, sample_metrics
from torchstone.metrics.inception import inception_metrics
from torchstone.parts.diffusion.process import prior_kl, vb_term
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode
from torchstone.plots import canvas
from torchstone.plots.sample_grid import save_image_grid
from torchstone.tasks.diffusion.autoencoder import reconstruction_metrics
from torchstone.tasks.diffusion.sampler import (
    ClassifierGuidance,
    Inpainting,
    PSample,
    SamplingConfig,
    guided_denoiser,
    sample_images,
)
from torchstone.tasks.evaluate_samples import evaluate_samples
from torchstone.tasks.inference import class_index, with_options
from torchstone.tasks.vision.feature_classifier import train_or_load_classifier

Pixels = UInt8[Tensor, "count channel height width"]

NUM_EVALUATED = 500  # samples that `evaluate` draws
SWEEP_SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)  # guidance scales
SWEEP_STEPS = 50  # DDIM steps that are compared with DDPM over all timesteps
SWEEP_METRICS = ("label_accuracy", "confident_rate", "recall", "precision", "frechet_distance")


# ----------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class SampleRequest:
    """The options of `torchstone sample`; what is None comes from the run's recipe.

    Args:
        num_samples: number of images.
        seed: of the noise.
        label: a class by name; by default all classes in turn.
        prompt: a caption, for networks with a text encoder. Below each image of a sheet is then the
            training image nearest to it.
        out: a `.png` for all of them on one sheet.
        guidance_scale: s of classifier-free guidance, 1 for none.
        classifier_scale: scale of classifier guidance towards the label, or towards each label in turn;
            the network need not know labels for it.
        sampling_steps, sampler, eta: of `SamplingConfig`.
        inpaint_image, mask: an image, and one of its size that is white where it is to be generated anew.
        resample_steps: of `Inpainting`.
    """

    num_samples: int = 16
    seed: int = 0
    label: str | int | None = None
    prompt: str | None = None
    out: str | Path | None = None
    guidance_scale: float | None = None
    classifier_scale: float | None = None
    sampling_steps: int | None = None
    sampler: str | None = None
    eta: float = 0.0
    inpaint_image: str | Path | None = None
    mask: str | Path | None = None
    resample_steps: int = 5

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise BadInput(f"num_samples must be at least 1, not {self.num_samples}")
        if (self.inpaint_image is None) != (self.mask is None):
            raise BadInput("give both an image to inpaint and a mask, which is white where to generate")

    def sampling(self, default: SamplingConfig) -> SamplingConfig:
        given = {"steps": self.sampling_steps, "sampler": self.sampler, "guidance_scale": self.guidance_scale}
        given = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(default, eta=self.eta, seed=self.seed, **given)


def make_sample(p_sample: PSample, classifier: Any) -> Callable[..., list]:
    """The system's `sample(model, metadata, **options)`, the options being fields of `SampleRequest`.

    Args:
        classifier: of `judge`, for classifier guidance.
    """

    def sample(model: Any, metadata: dict[str, Any], **options: Any) -> list:
        """Images, uint8 (channel, height, width), or the name of the sheet they were written to."""
        return sample_request(p_sample, classifier, model, metadata, SampleRequest(**options))

    return with_options(sample, SampleRequest)


def sample_request(
    p_sample: PSample, classifier: Any, model: Any, metadata: dict[str, Any], request: SampleRequest
) -> list:
    """Images, uint8 (channel, height, width), or the name of the sheet they were written to.

    Raises:
        BadInput: a number, a label, a word or a file that is not possible.
    """
    count, label, prompt, out = request.num_samples, request.label, request.prompt, request.out
    sampling = request.sampling(SamplingConfig.from_metadata(metadata["sampling"]))
    inpainting = guidance = context = None
    if has_autoencoder(model) and (request.inpaint_image is not None or request.classifier_scale is not None):
        raise BadInput(
            "this network denoises latents, not pixels: in-painting and classifier guidance cannot"
        )
    if request.inpaint_image is not None and request.mask is not None:
        inpainting = load_inpainting(model, metadata["picture"], request)
    if request.classifier_scale is not None:
        if "source" not in metadata:
            raise BadInput("a published network has no data to train a classifier on: leave out its guidance")
        data = load_data(metadata, metadata["source"], next(model.parameters()).device)
        if isinstance(data, Captioned):
            raise BadInput("classifier guidance needs labels, and captions are none: use --guidance-scale")
        labels = torch.arange(count) % len(data.classes)
        if label is not None:
            labels = torch.full((count,), class_index(label, list(data.classes)))
        guidance = ClassifierGuidance(
            train_or_load_classifier(data, classifier), labels, request.classifier_scale
        )
        context = labels if "classes" in metadata else None
    elif prompt is not None or label is not None or "classes" in metadata:
        context = make_context(metadata, count, label, prompt)
    images = sample_images(
        p_sample,
        model,
        count,
        sampling,
        context=context,
        classifier_guidance=guidance,
        inpainting=inpainting,
        progress=True,
    )
    if out is None:
        return list(images)
    if prompt is not None:
        try:
            data = load_data(metadata, metadata["source"], "cpu")
        except BadInput as error:
            notify(f"without the nearest training images: {error}")
        else:
            assert isinstance(data, Captioned)
            return [str(memorization.save_nearest_sheet(images, data, out, captions=[prompt] * count))]
    one_class_a_column = label is None and len(metadata.get("classes", ())) == 10
    return [str(save_image_grid(images, out, columns=10 if one_class_a_column else None))]


def has_autoencoder(model: Any) -> bool:
    """Whether it is latents that the network denoises."""
    return getattr(model, "autoencoder", None) is not None


def load_data(metadata: dict[str, Any], source: str, device: Any) -> ImageDataset | Captioned:
    """Images of a source as the network takes them, with captions if it has a text encoder."""
    size = metadata["picture"]["size"]
    if "tokenizer" in metadata:
        return load_captioned(source, size=size, device=device)
    picture = metadata["picture"]
    return load_images(source, size=size, channels=picture["channels"], device=device, model=picture)


def load_inpainting(model: Any, metadata: dict[str, Any], request: SampleRequest) -> Inpainting:
    device = next(model.parameters()).device
    plain = metadata | {"ink": False}  # the image keeps its position in the frame
    assert request.inpaint_image is not None
    assert request.mask is not None
    pixels = preprocess(request.inpaint_image, plain).to(device)
    mask = preprocess(request.mask, plain | {"channels": 1}).to(device)
    return Inpainting(pixels.float() / 127.5 - 1, mask < 128, request.resample_steps)


def make_context(
    metadata: dict[str, Any], count: int, label: str | int | None = None, prompt: str | None = None
) -> Int64[Tensor, "count *tokens"] | None:
    """The condition of each of `count` images: the prompt, or the label, or each label in turn.

    Raises:
        BadInput: no such label; a prompt for a network without a text encoder; an unknown word.
    """
    classes, has_text = metadata.get("classes"), "tokenizer" in metadata
    if prompt is not None:
        if not has_text:
            raise BadInput("this network reads no text" + ": use --label" * bool(classes))
        ids = tokenize_prompt(from_metadata(metadata["tokenizer"]), prompt, metadata["length"])
        return ids.expand(count, -1)
    if label is not None:
        if not classes:
            raise BadInput("this network knows no labels" + ": use --prompt" * has_text)
        return torch.full((count,), class_index(label, classes))
    return torch.arange(count) % len(classes) if classes else None


# ----------------------------------------------------------------------------------------- metrics


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    source: str,
    *,
    held_out: bool,
    p_sample: PSample,
    classifier: Any = None,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """Bits per dimension of the test split of `source` if `held_out`, else of all its images; and metrics of
    up to 500 samples: with labels those of `compared`, if the data have the network's classes; with captions
    `match`.

    Args:
        classifier, inception: of `worth_of`.

    Raises:
        BadInput: Inception is asked for, and the classes are not those the network knows.
    """
    if "start_id" in metadata:
        raise BadInput("a published network of prompts is sampled, not evaluated: give a run")
    device = next(model.parameters()).device
    data = load_data(metadata, source, device)
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    images = torch.cat([s.take(torch.arange(len(s), device=device)) for s in splits])
    metrics: dict[str, Any] = {"pictures": len(images)}
    if has_autoencoder(model):
        everything = ImageSplit(torch.cat([split.labels for split in splits]), images)
        metrics |= reconstruction_metrics(model.autoencoder, everything, metadata["picture"])
    else:
        metrics["bits_per_dimension"] = bits_per_dim(model, images)
    sampling = SamplingConfig.from_metadata(metadata["sampling"])

    def sample(num_samples: int, context: Tensor | None) -> Pixels:
        return sample_images(p_sample, model, num_samples, sampling, context=context, progress=True)

    if isinstance(data, Captioned):
        network = None if inception is None else load_inception(inception, device)
        labels = torch.cat([split.labels.cpu() for split in splits])
        rows = evenly_spaced(len(labels), NUM_EVALUATED)
        captions = [data.captions[row] for row in labels[rows].tolist()]
        context = token_ids(from_metadata(metadata["tokenizer"]), captions, metadata["length"])
        samples = sample(len(context), context)
        metrics["match"] = memorization.caption_match(samples, images[rows])
        metrics["samples"] = len(samples)
        return metrics if network is None else metrics | inception_metrics(samples, splits, network)
    context = None
    if "classes" in metadata:
        if list(data.classes) != metadata["classes"]:
            if inception is not None:
                raise BadInput(f"{source} has other classes than the network's: samples cannot be compared")
            return metrics
        context = make_context(metadata, NUM_EVALUATED)
    metrics |= evaluate_samples(
        lambda: sample(NUM_EVALUATED, context),
        data,
        classifier,
        splits,
        target_labels=context,
        inception=inception,
    )
    return metrics | {"samples": NUM_EVALUATED}


@torch.no_grad()
def bits_per_dim(
    model: Any, images: Pixels, *, rounds: int = 4, seed: int = 0, batch_size: int = 256
) -> float:
    """Bits per dimension of `images` without a condition: an unbiased estimate of the variational bound.

        L = KL(q(x_T | x₀) ‖ N(0, I)) + Σ_t KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)) − log p(x₀ | x₁)

    Ho, Jain and Abbeel 2020 (arXiv:2006.11239), equation 5. Each image is evaluated at `rounds` timesteps,
    and all of them together at all timesteps evenly, so that the sum over t is T times the mean. The same
    seed gives the same number.
    """
    device, process = images.device, model.process
    schedule = process.noise_schedule().to_float64().to(device)
    timesteps, count = len(schedule), len(images)
    denoise_fn = guided_denoiser(model)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    with eval_mode(model):
        for number in range(rounds):
            # stratified: (i + u) / count of the timesteps, assigned to the images at random
            fraction = torch.randperm(count, generator=generator).double()
            shift = torch.rand((), generator=generator, dtype=torch.float64)
            fraction = (fraction * rounds + number + shift) / (count * rounds)
            t = (fraction * timesteps).long().clamp(max=timesteps - 1)
            for rows in torch.arange(count).split(batch_size):
                x0 = images[rows.to(device)].float() / 127.5 - 1
                epsilon = torch.randn(x0.shape, generator=generator).to(device)
                nats = timesteps * vb_term(denoise_fn, process, schedule, x0, epsilon, t[rows].to(device))
                if not number:
                    nats = nats + rounds * prior_kl(schedule, x0)
                total += nats.sum().cpu()
    return float(total) / (count * rounds) / math.log(2)


def guidance_sweep(
    sample: Callable[[SamplingConfig], Pixels],
    classifier: FeatureClassifier,
    real: tuple[ClassifierFeatures, Tensor],
    labels: Int64[Tensor, " count"] | None,
    timesteps: int,
) -> dict[str, float]:
    """`guided_S_METRIC` for every guidance scale S, if there are `labels` to guide towards; then
    `ddim_METRIC` with 50 steps and `ddpm_METRIC` with all timesteps, without guidance; all from the same
    noise.

    The metrics are those of `compared`, and `diversity`: the variance of samples within a class, relative to
    that of real images. (The total variance grows with label accuracy instead.)

    Args:
        sample: a fixed number of images, by a config.
        real: features of real images, and their labels.
        labels: of the samples.
    """
    metrics: dict[str, float] = {}

    def measure(name: str, config: SamplingConfig) -> None:
        features = classifier.extract(sample(config))
        measured = sample_metrics(features, *real, target_labels=labels)
        for metric in SWEEP_METRICS:
            if metric != "label_accuracy" or labels is not None:
                metrics[f"{name}_{metric}"] = measured[metric]
        if labels is not None:
            variance = within_class_variance(features.features, labels)
            metrics[f"{name}_diversity"] = float(variance / within_class_variance(real[0].features, real[1]))

    steps = min(SWEEP_STEPS, timesteps)
    for scale in SWEEP_SCALES if labels is not None else ():
        measure(f"guided_{scale:g}", SamplingConfig(steps // 2, "ddim", guidance_scale=scale))
    measure("ddim", SamplingConfig(steps, "ddim"))
    measure("ddpm", SamplingConfig(timesteps, "ddpm"))
    return metrics


def within_class_variance(
    features: Float[Tensor, "count features"], labels: Int64[Tensor, " count"]
) -> Float[Tensor, ""]:
    """The mean over classes of two images or more of the variance within the class."""
    groups = [features[labels == label].double() for label in labels.unique()]
    return torch.stack([group.var(0).sum() for group in groups if len(group) > 1]).mean()


def plot_guidance_sweep(results: Mapping[str, float], file: Path) -> None:
    """Label accuracy, and what it costs, against the guidance scale; no file without a sweep."""
    curves = {
        metric: [results.get(f"test/guided_{scale:g}_{metric}") for scale in SWEEP_SCALES]
        for metric in ("label_accuracy", "confident_rate", "diversity", "recall")
    }
    if None in curves["label_accuracy"]:
        return
    figure = canvas.canvas(6, 3.6)
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(curves.items()):
        style = {"color": canvas.PALETTE[number], "marker": "o", "markersize": 4}
        axes.plot(SWEEP_SCALES, values, label=name, linestyle="-" if number < 2 else "--", **style)
    canvas.frame(axes, "guidance")
    axes.set_xlabel("guidance scale s (0: unconditional, 1: no guidance)", fontsize=9)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=4, **canvas.LEGEND)
    canvas.save(figure, file)
