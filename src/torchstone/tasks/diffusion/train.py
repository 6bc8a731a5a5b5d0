"""Training of diffusion models on images: from a network, a recipe and data to a Run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from torch import Tensor

from torchstone.data.text.tokenizers import to_metadata
from torchstone.data.vision.captioned import Captioned, load_captioned, token_ids, word_tokenizer
from torchstone.data.vision.dataset import ImageDataset, ImageSplit, load_images
from torchstone.data.vision.diffusion_batches import DiffusionBatch, DiffusionBatches, MakeContext
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.metrics import memorization
from torchstone.metrics.classifier_features import frechet_statement, sample_metrics, save_nearest_sheet
from torchstone.parts.diffusion.process import DiffusionProcess, NoiseSchedule
from torchstone.parts.diffusion.text_encoder import masked_mean
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode
from torchstone.plots import sample_grid
from torchstone.tasks.diffusion.autoencoder import (
    frechet_of_reconstructions,
    latent_batches,
    reconstruction_metrics,
    save_sheet,
)
from torchstone.tasks.diffusion.inference import bits_per_dim, guidance_sweep, plot_guidance_sweep
from torchstone.tasks.diffusion.sampler import PSample, SamplingConfig, sample_images
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.vision.feature_classifier import train_or_load_classifier
from torchstone.tasks.vision.stream import image_batches

Pixels = UInt8[Tensor, "count channel height width"]

MAX_TOKENS = 10  # of a caption, the start token included
MAX_VALIDATION = 256  # images that the validation loss is measured on
SHEET_SAMPLES, NEAREST_SAMPLES = 40, 24  # on a sheet in training; on the sheet of nearest training images
MAX_SHEET_STEPS = 10  # sampling steps of sheets in training
# the mean loss of a batch, as `ddpm.training_loss` is: (net, process, schedule, batch) -> loss
TrainingLoss = Callable[[Any, DiffusionProcess, NoiseSchedule, DiffusionBatch], Tensor]


# -------------------------------------------------------------------------------------------- data


class ConditionedData(NamedTuple):
    """Images and the conditions that the network is trained with.

    `model_config` is what the network is built with, `make_context` turns labels into its condition, and
    `metadata` is what a checkpoint has to hold of that.
    """

    data: Any
    model_config: dict[str, Any]
    make_context: MakeContext | None
    metadata: dict[str, Any]

    def cycle(self, count: int) -> tuple[Int64[Tensor, "count *tokens"] | None, list[str]]:
        """The conditions of `count` images on a sheet, and their captions: each class in turn; or captions
        of training and of held-out images in turn, evenly chosen; or None."""
        if self.make_context is None:
            return None, []
        if not isinstance(self.data, Captioned):
            labels = torch.arange(count) % len(self.data.classes)
        else:
            splits = [split.labels.cpu() for split in (self.data.train, self.data.val)]
            half = (count + 1) // 2  # indices are truncated, not rounded: so the records were measured
            chosen = [each[torch.linspace(0, len(each) - 1, half).long()] for each in splits]
            labels = torch.stack(chosen, 1).flatten()[:count]
        device = self.data.train.labels.device
        dropped = torch.zeros(count, dtype=torch.bool, device=device)
        return self.make_context(labels.to(device), dropped).cpu(), captions(self.data, labels)

    def subset(
        self, split: ImageSplit, max_count: int
    ) -> tuple[Tensor | None, UInt8[Tensor, "count 3 height width"]]:
        """The conditions of up to `max_count` evenly chosen images of a split, and these images."""
        rows = torch.linspace(0, len(split) - 1, min(max_count, len(split))).long()
        labels = split.labels[rows.to(split.labels.device)]
        dropped = torch.zeros(len(rows), dtype=torch.bool, device=labels.device)
        context = self.make_context(labels, dropped) if self.make_context else None
        return context, split.take(rows).cpu()


def load_conditioned_data(recipe: Any, model_config: dict[str, Any], device: torch.device) -> ConditionedData:
    """The recipe's data, fitted to the network of `model_config`, and its `condition`.

    Raises:
        BadInput: the data cannot be read, or the network has no text encoder.
    """
    process = {
        "beta_schedule": recipe.beta_schedule,
        "timesteps": recipe.timesteps,
        "prediction_type": recipe.prediction_type,
    }
    model_config = {**model_config, "dropout": recipe.dropout, "process": process}
    metadata = sampling_metadata(recipe)
    size = model_config["size"]
    if recipe.condition == "text":
        if model_config.get("text_encoder") is None or model_config["channels"] != 3:
            raise BadInput(f"{recipe.variant} reads no captions: use --variant ddpm_emoji")
        data: Any = load_captioned(recipe.data, size=size, device=device)
        tokenizer = word_tokenizer([data.captions[row] for row in data.train.labels.tolist()])
        sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_length": MAX_TOKENS}
        model_config["text_encoder"] = model_config["text_encoder"] | sizes
        table = token_ids(tokenizer, list(data.captions), MAX_TOKENS).to(device)
        empty = token_ids(tokenizer, [""], MAX_TOKENS).to(device)
        metadata |= {"tokenizer": to_metadata(tokenizer), "length": MAX_TOKENS}
        return ConditionedData(data, model_config, caption_context(table, empty), metadata)
    model_config |= {"text_encoder": None, "coarse_head": 0}  # a variant may have them
    data = load_images(recipe.data, size=size, channels=model_config["channels"], device=device)
    if recipe.condition == "none":
        return ConditionedData(data, model_config, None, metadata)
    num_classes = len(data.classes)
    model_config |= {"num_classes": num_classes, "null_label": True}
    metadata |= {"classes": list(data.classes)}
    return ConditionedData(data, model_config, label_context(num_classes), metadata)


def sampling_metadata(recipe: Any) -> dict[str, Any]:
    """How the recipe samples, and its data: what `sample` follows."""
    sampling = SamplingConfig(recipe.sampling_steps, recipe.sampler, guidance_scale=recipe.guidance_scale)
    return {"sampling": dataclasses.asdict(sampling), "source": recipe.data}


def run_metadata(recipe: Any, conditioned: ConditionedData) -> dict[str, Any]:
    """What a checkpoint has to hold, the same in every stage."""
    return {
        "task": "diffuse",
        "variant": recipe.variant,
        "model_config": conditioned.model_config,
        "picture": sample_grid.symmetric_range(conditioned.data.metadata),
        "data": conditioned.data.description,
        **conditioned.metadata,
    }


def label_context(num_classes: int) -> MakeContext:
    """An image's label, or where it is dropped `num_classes`, the null label."""
    return lambda labels, dropped: torch.where(dropped, num_classes, labels)


def caption_context(table: Int64[Tensor, "count tokens"], empty: Int64[Tensor, "1 tokens"]) -> MakeContext:
    """The token ids of the caption with the index `labels`, or where it is dropped the empty text."""
    return lambda labels, dropped: torch.where(dropped[:, None], empty, table[labels])


def captions(data: ImageDataset | Captioned, labels: Int64[Tensor, " count"]) -> list[str]:
    """The captions, or names of classes, that these labels stand for."""
    names = data.captions if isinstance(data, Captioned) else data.classes
    return [names[label] for label in labels.tolist()]


# ---------------------------------------------------------------------------------------- training


def train_diffusion(
    model: Any,
    recipe: Any,
    conditioned: ConditionedData,
    training_loss: TrainingLoss,
    p_sample: PSample,
    classifier: Any,
) -> Run:
    """A Run that trains `model` to denoise images at all timesteps; metrics are of the EMA weights. Of a
    model with a (trained) autoencoder it is the second stage, and denoises its latents.

    The recipe also states `sampler`, `sampling_steps` and `guidance_scale` of samples, and how many are
    evaluated at the end: `eval_samples`, and `guidance_sweep_samples` for each setting of the sweep.
    `loss` is `training_loss`, in validation with the same noise each time; in training that of the coarse
    image head is added, if the network has one.

    Args:
        classifier: of `judge`, for data that have classes.
    """
    data, make_context = conditioned.data, conditioned.make_context
    device = data.train.labels.device
    if device.type == "cuda":  # on a CPU group norms are slow in that layout
        model = model.to(memory_format=torch.channels_last)
    process, schedule = model.process, model.process.noise_schedule().to(device)
    sampling = SamplingConfig.from_metadata(conditioned.metadata["sampling"])
    sampling.process(process)  # refused now, not after training

    def denoising_loss(net: Any, batch: DiffusionBatch) -> Tensor:
        return training_loss(net, process, schedule, batch)

    def loss_with_coarse_head(net: Any, batch: DiffusionBatch) -> dict[str, Tensor]:
        coarse = coarse_loss(model, batch)
        denoising = denoising_loss(net, batch)
        return {"loss": denoising + coarse, "denoising_loss": denoising, "coarse_loss": coarse}

    image_metadata = sample_grid.symmetric_range(data.metadata)
    autoencoder = getattr(model, "autoencoder", None)
    if autoencoder is None:
        batches: Any = image_batches(recipe, data.train, image_metadata)
    else:
        model.requires_grad_(True)
        autoencoder.requires_grad_(False)
        batches = latent_batches(autoencoder, recipe, data)
    has_coarse_head = getattr(model, "coarse_head", None) is not None
    update, state, eval_model = gradient_update(
        model, recipe.optim, loss_with_coarse_head if has_coarse_head else denoising_loss, steps=recipe.steps
    )
    stream = DiffusionBatches(
        batches, len(schedule), make_context=make_context, cond_drop_prob=recipe.cond_drop_prob
    )
    feature_classifier = None
    if recipe.eval_samples and not isinstance(data, Captioned):
        feature_classifier = train_or_load_classifier(data, classifier)

    def sample(count: int, config: SamplingConfig = sampling) -> Pixels:
        context = conditioned.cycle(count)[0]
        return sample_images(p_sample, eval_model, count, config, context=context)

    num_val, sheet_steps = min(MAX_VALIDATION, len(data.val)), min(recipe.sampling_steps, MAX_SHEET_STEPS)
    # a sample is one forward pass a step, two where it is guided
    is_guided = make_context is not None and recipe.guidance_scale not in (0, 1)
    passes = sheet_steps * (1 + is_guided)

    def sample_sheet() -> Pixels:
        return sample(SHEET_SAMPLES, dataclasses.replace(sampling, sampler="ddim", steps=sheet_steps))

    def test() -> dict[str, float]:
        metrics = {"loss": evaluation_loss(eval_model, data.test, denoising_loss, make_context)}
        if autoencoder is None:
            images = data.test.take(torch.arange(len(data.test), device=device))
            metrics["bits_per_dimension"] = bits_per_dim(eval_model, images)
        else:
            metrics |= reconstruction_metrics(autoencoder, data.test, image_metadata)
            of_classes = classifier if recipe.eval_samples else None
            metrics |= frechet_of_reconstructions(autoencoder, data, of_classes)
        count = recipe.eval_samples
        if feature_classifier is not None:
            real, labels = feature_classifier.extract_split(data.test), conditioned.cycle(count)[0]
            fake = feature_classifier.extract(sample(count))
            metrics |= sample_metrics(fake, *real, target_labels=labels)
            metrics |= frechet_statement(fake.features, real[0].features, real[1])
            metrics["confident_data"] = float((real[0].probabilities.amax(1) >= 0.95).double().mean())
            if count := getattr(recipe, "guidance_sweep_samples", 0):
                metrics |= guidance_sweep(
                    lambda config: sample(count, config),
                    feature_classifier,
                    real,
                    conditioned.cycle(count)[0],
                    len(schedule),
                )
        elif isinstance(data, Captioned) and count:
            ratio = memorization.nn_distance_ratio(sample(count), data.train, data.test)
            metrics["nn_distance_ratio"] = ratio
            for name, split in (("match", data.test), ("match_train", data.train)):
                context, targets = conditioned.subset(split, count)
                samples = sample_images(p_sample, eval_model, len(targets), sampling, context=context)
                metrics[name] = memorization.caption_match(samples, targets)
        return metrics

    def report(folder: Path) -> None:
        file = folder / "nearest.png"
        if isinstance(data, Captioned):
            names = conditioned.cycle(NEAREST_SAMPLES)[1]
            memorization.save_nearest_sheet(sample(NEAREST_SAMPLES), data, file, captions=names)
        elif feature_classifier is not None:
            save_nearest_sheet(feature_classifier, sample(NEAREST_SAMPLES), data.train, file)
        if autoencoder is not None:
            save_sheet(autoencoder, data, folder)
        plot_guidance_sweep(run.results, folder / "guidance.png")
        sample_grid.save_final_samples(sample_sheet(), folder, columns=10)

    run = Run(
        stream=stream,
        update=update,
        evaluate=lambda: {
            "loss": evaluation_loss(eval_model, data.val, denoising_loss, make_context, MAX_VALIDATION)
        },
        best_metric="loss",
        examples=Examples(
            recipe.batch_size, len(data.train), num_val, "images", evaluation=num_val + SHEET_SAMPLES * passes
        ),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=test,
        report=report,
        metadata=run_metadata(recipe, conditioned),
    )
    return sample_grid.log_samples(run, sample_sheet, columns=10)


def coarse_loss(model: Any, batch: DiffusionBatch) -> Tensor:
    """The mean squared error of the coarse image head, whose target is the image at its resolution."""
    coarse = model.coarse_head(masked_mean(*model.text_encoder(batch.context)))
    return F.mse_loss(coarse, F.adaptive_avg_pool2d(batch.x, coarse.shape[2:]))


@torch.no_grad()
def evaluation_loss(
    model: Any,
    split: ImageSplit,
    loss: Callable[[Any, DiffusionBatch], Tensor],
    make_context: MakeContext | None,
    max_images: int | None = None,
    batch_size: int = 128,
) -> float:
    """The mean loss over (up to `max_images` evenly chosen) images, with noise that is always the same and
    timesteps that are evenly spaced."""
    device, autoencoder = split.labels.device, getattr(model, "autoencoder", None)
    chosen = evenly_spaced(len(split), max_images or len(split))
    count = len(chosen)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(count, generator=generator)
    t = ((order + 0.5) / count * model.process.timesteps).long()
    total = 0.0
    with eval_mode(model):
        for part in torch.arange(count).split(batch_size):
            index = chosen[part].to(device)
            x = split.take(index).float() / 127.5 - 1
            x = x if autoencoder is None else autoencoder.to_latents(x)
            epsilon = torch.randn(x.shape, generator=generator).to(device)
            labels = split.labels[index]
            dropped = torch.zeros_like(labels, dtype=torch.bool)
            context = make_context(labels, dropped) if make_context else None
            batch = DiffusionBatch(x, t[part].to(device), epsilon, context)
            total += loss(model, batch).item() * len(part)
    return total / count
