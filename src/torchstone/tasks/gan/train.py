"""Adversarial training: from two networks, their losses, a recipe and images to a Run.

Each network has its own optimizer, and each step fills the gradients of its own network alone. Sample
quality is measured during training (`metrics/classifier_features.py`), so that a mode collapse is
noticed when it happens, and reported (`tasks/gan/mode_collapse.py`).
"""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageDataset
from torchstone.data.vision.gan_batches import DiscriminatorBatch, GanBatch, GanBatches, GeneratorBatch
from torchstone.engine.run import FORWARDS, Examples, Run
from torchstone.errors import BadInput, did_you_mean
from torchstone.metrics.classifier_features import (
    ClassifierFeatures,
    FeatureClassifier,
    frechet_statement,
    sample_metrics,
    save_nearest_sheet,
)
from torchstone.parts.gan.losses import GAN_LOSSES, GanLoss, gradient_penalty
from torchstone.parts.metrics import fidelity_diversity
from torchstone.plots.sample_grid import log_samples, save_final_samples
from torchstone.tasks.gan.inference import (
    SamplingContext,
    cycle_labels,
    grid_columns,
    label_inputs,
    sample_images,
)
from torchstone.tasks.gan.mode_collapse import ModeCollapseMonitor
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.vision.feature_classifier import ClassifierSpec, train_or_load_classifier
from torchstone.tasks.vision.stream import image_batches

GRID_SIZE, NUM_PAIRS = 100, 48  # samples on a grid; samples shown with their nearest training image
# forward passes that a sample costs in evaluation: it is generated, and classified at twice that cost
SAMPLE_WORK = 3


class DiscriminatorOutput(NamedTuple):
    """Logits of real and of generated images, and E(‖∇ D(x̂)‖ − 1)², if the loss has a gradient penalty."""

    real: Tensor
    fake: Tensor
    penalty: Tensor | None


class DiscriminatorOnBoth(nn.Module):
    """The discriminator on real and on generated images, each a batch of its own, in one forward pass."""

    def __init__(self, discriminator: nn.Module, has_gradient_penalty: bool):
        super().__init__()
        self.discriminator, self.has_gradient_penalty = discriminator, has_gradient_penalty

    def forward(self, batch: DiscriminatorBatch, fake: Tensor) -> DiscriminatorOutput:
        condition = label_inputs(self.discriminator, batch.labels)
        penalty = None
        if self.has_gradient_penalty:
            penalty = gradient_penalty(
                lambda x: self.discriminator(x, *condition), batch.real, fake, batch.interpolation
            )
        real_logits = self.discriminator(batch.real, *condition)
        return DiscriminatorOutput(real_logits, self.discriminator(fake, *condition), penalty)


def train_gan(
    model: Any,
    discriminator: nn.Module,
    recipe: Any,
    data: ImageDataset,
    *,
    discriminator_loss: Callable[[DiscriminatorOutput, GanLoss, float], Tensor],
    generator_loss: Callable[[Tensor, GanLoss], Tensor],
    model_config: dict[str, Any],
    metadata: dict[str, Any],
    classifier: ClassifierSpec,
    sampling_context: SamplingContext = contextlib.nullcontext,
    sampling_work: float = 0.0,
) -> Run:
    """A Run that trains `model` to generate images that `discriminator` cannot tell from those of `data`.

    Of the recipe: loss, gp_weight, discriminator_steps, discriminator_lr, eval_samples. Metrics: `loss` is
    the generator's, `discriminator_loss` the discriminator's, `real_logit` and `fake_logit` its mean logits;
    in evaluation `sample_metrics`, at the end beside those of training images and the untrained generator.

    Args:
        model: (z) -> images, or if it has `num_classes`, (z, labels); z has `latent_dim` numbers.
        discriminator: (images), or if it has `num_classes`, (images, labels) -> logits.
        model_config: constructor arguments of `model`, saved with the weights.
        metadata: normalization of the images: `symmetric_range` or `unit_range`.
        classifier: whose features samples are compared in.
        sampling_context: within `sampling_context(model)` it is sampled: with statistics of samples, say.
        sampling_work: what entering it costs, in forward passes of an image.

    Raises:
        BadInput: an unknown loss; a gradient penalty with batch norm or `compile`; too few steps of the
            discriminator, samples or images.
    """
    loss = select_loss(recipe, discriminator)
    check_neighbors(recipe, data)
    if data.train.labels.device.type != "mps":
        model = model.to(memory_format=torch.channels_last)
        discriminator = discriminator.to(  # ty: ignore[no-matching-overload]
            memory_format=torch.channels_last
        )
    untrained = copy.deepcopy(model)
    feature_classifier = train_or_load_classifier(data, classifier)

    def discriminator_objective(net: Any, batch: DiscriminatorBatch) -> dict[str, Tensor]:
        with torch.no_grad():  # no gradient reaches the generator
            fake = model(batch.z, *label_inputs(model, batch.labels))
        output = net(batch, fake)
        total = discriminator_loss(output, loss, recipe.gp_weight)
        return {"loss": total, "real": output.real.mean(), "fake": output.fake.mean()}

    def generator_objective(net: Any, batch: GeneratorBatch) -> Tensor:
        fake = net(batch.z, *label_inputs(model, batch.labels))
        return generator_loss(discriminator(fake, *label_inputs(discriminator, batch.labels)), loss)

    generator_step, state, eval_model = gradient_update(
        model, recipe.optim, generator_objective, steps=recipe.steps
    )
    lr = recipe.optim.lr if recipe.discriminator_lr is None else recipe.discriminator_lr
    discriminator_step, discriminator_state, _ = gradient_update(
        discriminator,
        dataclasses.replace(recipe.optim, lr=lr, ema_decay=0.0),
        discriminator_objective,
        steps=recipe.steps * recipe.discriminator_steps,
        forward_module=DiscriminatorOnBoth(discriminator, loss.has_gradient_penalty),
    )
    state |= {f"discriminator_{name}": item for name, item in discriminator_state.items()}
    state["discriminator"] = state.pop("discriminator_model")
    batches = image_batches(recipe, data.train, metadata)
    stream = state["stream"] = GanBatches(
        batches, model.latent_dim, discriminator_steps=recipe.discriminator_steps
    )

    def update(batch: GanBatch) -> dict[str, Tensor]:
        metrics = [discriminator_step(each) for each in batch.discriminator_batches][-1]
        return {
            "loss": generator_step(batch.generator_batch)["loss"],
            "discriminator_loss": metrics["loss"],
            "real_logit": metrics["real"],
            "fake_logit": metrics["fake"],
        }

    work = image_work(recipe.discriminator_steps, loss.has_gradient_penalty)
    training = GanTraining(
        stream, update, state, eval_model, untrained, work, sampling_context, sampling_work
    )
    return gan_run(
        training, recipe, data, model_config=model_config, metadata=metadata, classifier=feature_classifier
    )


class GanTraining(NamedTuple):
    """What a Run of a GAN is made of: batches, an update, all that a checkpoint holds of it, the network to
    evaluate and a copy of it before training.

    Args:
        work: what an image of a batch costs an update, in forward passes of one of the networks.
        sampling_context: within `sampling_context(model)` it is sampled: with statistics of samples, say.
        sampling_work: what entering it costs, in forward passes of an image.
    """

    stream: Any
    update: Callable[[Any], dict[str, Any]]
    state: dict[str, Any]
    eval_model: Any
    untrained: Any
    work: float
    sampling_context: SamplingContext = contextlib.nullcontext
    sampling_work: float = 0.0


def gan_run(
    training: GanTraining,
    recipe: Any,
    data: ImageDataset,
    *,
    model_config: dict[str, Any],
    metadata: dict[str, Any],
    classifier: FeatureClassifier,
) -> Run:
    """A Run of `training`, whose samples are measured, and whose collapse is reported.

    Of the recipe: variant, steps, batch_size, eval_samples. Evaluation writes `sample_metrics`, at the end
    beside those of training images and of the untrained generator.
    """
    stream, update, state, eval_model, untrained, work, sampling_context, _ = training
    feature_classifier = classifier
    monitor = state["mode_collapse"] = ModeCollapseMonitor(data.classes)
    validation = feature_classifier.extract_split(data.val)

    def measure(
        net: Any, real: tuple[ClassifierFeatures, Tensor], count: int
    ) -> tuple[dict[str, float], ClassifierFeatures]:
        labels = cycle_labels(net, count)
        with sampling_context(net):
            fake = feature_classifier.extract(sample_images(net, count, metadata, labels=labels))
        return sample_metrics(fake, *real, target_labels=labels), fake

    def evaluate() -> dict[str, float]:
        metrics, fake = measure(eval_model, validation, recipe.eval_samples)
        frequencies, real_frequencies = (
            fidelity_diversity.class_frequencies(labels, len(data.classes))
            for labels in (fake.labels, validation[1])
        )
        covered = fidelity_diversity.covered_classes(frequencies, real_frequencies)
        step = state["lr_schedule"].last_epoch
        return metrics | {"mode_collapse": monitor.update(metrics, covered, step, recipe.steps)}

    def test() -> dict[str, float]:
        real, count = feature_classifier.extract_split(data.test), 5 * recipe.eval_samples
        metrics, fake = measure(eval_model, real, count)
        metrics |= frechet_statement(fake.features, real[0].features, real[1])
        untrained_distance = measure(untrained, real, count)[0]["frechet_distance"]
        train = feature_classifier.extract_split(data.train, count)[0]
        train_distance = fidelity_diversity.frechet_distance(train.features, real[0].features)
        metrics["frechet_distance_untrained"] = untrained_distance
        metrics["frechet_distance_train"] = float(train_distance)
        ratio = untrained_distance / max(metrics["frechet_distance"], 1e-9)
        return metrics | {"fd_ratio_vs_untrained": ratio}

    def sample(count: int = GRID_SIZE) -> Tensor:
        with sampling_context(eval_model):
            return sample_images(eval_model, count, metadata)

    columns = grid_columns(eval_model)

    def report(folder: Path) -> None:
        save_nearest_sheet(feature_classifier, sample(NUM_PAIRS), data.train, folder / "nearest.png")
        save_final_samples(sample(), folder, columns=columns)

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric="frechet_distance",
        examples=Examples(
            recipe.batch_size,
            len(data.train),
            unit="images",
            evaluation=SAMPLE_WORK * recipe.eval_samples + GRID_SIZE + 2 * training.sampling_work,
            update=recipe.batch_size * work,
        ),
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        metadata={
            "task": "adversarial",
            "variant": recipe.variant,
            "model_config": model_config,
            "classes": list(data.classes),
            "picture": metadata,
            "data": data.description,
            "classifier_accuracy": feature_classifier.accuracy,
            "eval_samples": 5 * recipe.eval_samples,
        },
    )
    return log_samples(run, sample, columns=columns)


def check_neighbors(recipe: Any, data: ImageDataset) -> None:
    """
    Raises:
        BadInput: too few samples or images for precision and recall.
    """
    if min(recipe.eval_samples, len(data.val), len(data.test)) <= fidelity_diversity.NUM_NEIGHBORS:
        raise BadInput(
            f"precision and recall use {fidelity_diversity.NUM_NEIGHBORS} neighbors: more of them are needed "
            "in eval_samples and in each split than "
            f"{recipe.eval_samples}, {len(data.val)} and {len(data.test)}"
        )


def image_work(discriminator_steps: int, has_gradient_penalty: bool) -> int:
    """What an image of a batch costs an update, in forward passes of one of the two networks, which cost
    about the same: the discriminator takes a gradient on a real and on a generated image, where there is a
    penalty one of a gradient too, and the generator one through both networks."""
    discriminator = 1 + 2 * FORWARDS + (2 * FORWARDS if has_gradient_penalty else 0)
    return discriminator_steps * discriminator + 2 * FORWARDS


def select_loss(recipe: Any, discriminator: nn.Module) -> GanLoss:
    """The recipe's loss, checked against its discriminator and other fields."""
    if recipe.loss not in GAN_LOSSES:
        raise BadInput(f"unknown loss {recipe.loss!r}: {did_you_mean(recipe.loss, GAN_LOSSES)}")
    loss = GAN_LOSSES[recipe.loss]
    if not 0 <= recipe.gp_weight < math.inf:
        raise BadInput(f"gp_weight must be a number of at least 0, not {recipe.gp_weight}")
    if recipe.discriminator_steps < 1:
        raise BadInput(f"discriminator_steps must be at least 1, not {recipe.discriminator_steps}")
    if loss.has_gradient_penalty:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in discriminator.modules()):
            raise BadInput(
                f"{recipe.loss} takes the gradient at each image by itself, which batch norm mixes: "
                "choose discriminator_norm layer, spectral or none"
            )
        if recipe.optim.compile:
            raise BadInput(f"{recipe.loss} takes a gradient of a gradient: leave compile off")
    return loss
