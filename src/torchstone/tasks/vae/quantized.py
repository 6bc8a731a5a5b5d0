"""Training of an autoencoder with a codebook and of the prior over its symbols, two stages; and their use."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from torchstone.data.vision.codebook_batches import CodebookBatch, CodebookBatches
from torchstone.data.vision.dataset import ImageDataset, ImageSplit, load_images, normalize
from torchstone.data.vision.dequantized_batches import all_images
from torchstone.data.vision.preprocess import preprocess
from torchstone.engine import parallel
from torchstone.engine.console import track
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.metrics.classifier_features import save_nearest_sheet
from torchstone.parts.modes import eval_mode
from torchstone.parts.vae.vector_quantizer import Quantized, code_sums, perplexity
from torchstone.plots.sample_grid import (
    log_samples,
    save_final_samples,
    save_image_grid,
    symmetric_range,
    to_uint8,
)
from torchstone.tasks.anomaly import check_finite, classify_score, score_quantiles
from torchstone.tasks.evaluate_samples import DEFAULT_SAMPLES, NUM_PAIRS, evaluate_samples
from torchstone.tasks.gan.inference import cycle_labels, grid_columns
from torchstone.tasks.inference import class_index, list_files
from torchstone.tasks.optimization import gradient_update, train_only
from torchstone.tasks.reconstruction import (
    CHUNK_SIZE,
    psnr,
    reconstruct,
    reconstruction_distance,
    save_reconstructions,
)
from torchstone.tasks.vision.feature_classifier import ClassifierSpec, train_or_load_classifier
from torchstone.tasks.vision.stream import image_batches

Pixels = UInt8[Tensor, "count channel height width"]
Images = Float[Tensor, "batch channel height width"]
Labels = Int64[Tensor, " count"]

GRID_SIZE = 100  # samples on a grid


class Setup(NamedTuple):
    """What both stages are made of.

    Args:
        model: with `encode`, `decode`, `autoencode`, `quantizer` and `prior`.
        model_config: constructor arguments of `model` beside its variant's, saved with the weights.
        classifier: whose features samples are compared in, if `eval_samples` is not 0.
    """

    model: Any
    recipe: Any
    data: ImageDataset
    model_config: dict[str, Any]
    classifier: ClassifierSpec

    def metadata(self) -> dict[str, Any]:
        return {
            "task": "autoencode",
            "variant": self.recipe.variant,
            "model_config": self.model_config,
            "classes": list(self.data.classes),
            "picture": symmetric_range(self.data.metadata),
            "eval_samples": self.recipe.eval_samples,
            "data": self.data.description,
        }


class Autoencoding(nn.Module):
    """The first stage's pass: reconstructions, the encoder's vectors, and what quantization made of them."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: Images) -> tuple[Images, Float[Tensor, "batch dim rows columns"], Quantized]:
        z = self.model.encoder(x)
        found = self.model.quantizer(z)
        return self.model.decoder(found.vectors), z, found


def train_autoencoder(setup: Setup, loss: Callable[..., dict[str, Tensor]]) -> Run:
    """A Run of the first stage: encoder, codebook and decoder.

    Of the recipe: steps, batch_size, optim, eval_samples. Metrics: `loss`, `mse` of pixels on −1..1, `psnr`
    in dB, `commitment_loss`, `code_perplexity`.

    Args:
        loss: (images, reconstruction, Quantized, variance of the pixels, recipe) -> metrics with the `loss`
            to minimize.
    """
    model, recipe, data = setup.model, setup.recipe, setup.data
    picture = symmetric_range(data.metadata)
    variance = float(normalize(all_images(data.train)[:5000], picture).var())
    vectors: list[tuple[Tensor, Tensor]] = []

    def objective(net: Any, batch: CodebookBatch) -> dict[str, Tensor]:
        reconstruction, z, found = net(batch.images)
        vectors.append((z.detach(), found.codes))
        return loss(batch.images, reconstruction, found, variance, recipe)

    train_only(model, model.encoder, model.quantizer, model.decoder)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    step, state, eval_model = gradient_update(
        model,
        dataclasses.replace(recipe.optim, ema_decay=0.0),  # the codebook follows the encoder itself
        objective,
        steps=recipe.steps,
        parameters=parameters,
        forward_module=Autoencoding(model),
    )
    batches = image_batches(recipe, data.train, picture)
    stream = state["stream"] = CodebookBatches(batches, model.num_codes)

    def update(batch: CodebookBatch) -> dict[str, Tensor]:
        vectors.clear()
        metrics = step(batch)
        z, codes = (torch.cat(each) for each in zip(*vectors, strict=True))
        chosen, totals = code_sums(z, codes, model.num_codes)
        rows = z.movedim(1, -1).flatten(0, 2)
        own = rows[(batch.candidates * len(rows)).long().clamp(max=len(rows) - 1)]
        # every process moves its copy of the codebook by the joint batch
        chosen, totals = (parallel.gather_rows(each[None]).sum(0) for each in (chosen, totals))
        model.quantizer.update(chosen, totals, parallel.gather_rows(own[None])[0])
        return metrics | {"code_perplexity": perplexity(chosen)}

    def evaluate() -> dict[str, float]:
        return reconstruction_metrics(eval_model, data.val, picture)

    def test() -> dict[str, float]:
        return reconstruction_metrics(eval_model, data.test, picture)

    def report(folder: Path) -> None:
        save_reconstructions(eval_model, rebuild(eval_model), data.test, picture, folder / "rebuilt.png")

    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric=None,  # the codebook, the encoder and the decoder belong together: the last ones
        examples=Examples(recipe.batch_size, len(data.train), len(data.val), "images"),
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        metadata=setup.metadata(),
    )


def train_prior(setup: Setup, loss: Callable[[Tensor, Tensor], Tensor]) -> Run:
    """A Run of the second stage: the prior, on the symbols that the frozen encoder gives.

    Of the recipe: prior_steps, prior_lr, prior_ema_decay, eval_samples. Metrics: `loss` in nats a symbol; at
    the end also `psnr`, `code_perplexity`, `sample_metrics`, and the `reconstruction_frechet_distance`, which
    samples cannot be expected to go below.

    Args:
        loss: (logits, symbols) -> the scalar to minimize.
    """
    model, recipe, data = setup.model, setup.recipe, setup.data
    picture = symmetric_range(data.metadata)
    train_only(model, model.prior)
    parameters = list(model.prior.parameters())

    def objective(net: Any, batch: tuple[Images, Labels]) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            codes = model.encode(images)
        return loss(net(codes, labels if model.num_classes else None), codes)

    optim = dataclasses.replace(recipe.optim, lr=recipe.prior_lr, ema_decay=recipe.prior_ema_decay)
    update, state, eval_model = gradient_update(
        model, optim, objective, steps=recipe.prior_steps, parameters=parameters, forward_module=model.prior
    )
    stream = state["stream"] = image_batches(recipe, data.train, picture)

    def evaluate() -> dict[str, float]:
        log_prob = code_log_prob(eval_model, all_images(data.val), picture)
        run.calibration["score_quantiles"] = score_quantiles(marginal(log_prob))  # for `predict`
        return {"loss": nats_per_code(eval_model, log_prob, data.val.labels)}

    def test() -> dict[str, float]:
        metrics = evaluate_split(eval_model, [data.test], picture)
        if recipe.eval_samples:
            labels = cycle_labels(eval_model, recipe.eval_samples)
            metrics |= evaluate_samples(
                lambda: sample_images(eval_model, recipe.eval_samples, picture, labels=labels),
                data,
                setup.classifier,
                target_labels=labels,
            )
            metrics |= reconstruction_distance(
                eval_model, rebuild(eval_model), [data.test], data, setup.classifier
            )
        return metrics

    def grid() -> Pixels:
        return sample_images(eval_model, GRID_SIZE, picture)

    columns = grid_columns(eval_model)

    def report(folder: Path) -> None:
        save_reconstructions(eval_model, rebuild(eval_model), data.test, picture, folder / "rebuilt.png")
        if recipe.eval_samples:
            features = train_or_load_classifier(data, setup.classifier)
            pairs = sample_images(eval_model, NUM_PAIRS, picture)
            save_nearest_sheet(features, pairs, data.train, folder / "nearest.png")
        save_final_samples(grid(), folder, columns=columns)

    # a symbol of a sample is a pass of the prior over the rows up to it
    work = GRID_SIZE * math.prod(model.grid) / 2 + len(data.val) * max(1, model.num_classes)
    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric="loss",
        examples=Examples(recipe.batch_size, len(data.train), len(data.val), "images", evaluation=work),
        state=state,
        steps=recipe.prior_steps,
        test=test,
        report=report,
        metadata=setup.metadata(),
    )
    return log_samples(run, grid, columns=columns)


def rebuild(model: Any) -> Callable[[Images], Images]:
    """Images out of their symbols."""
    return lambda x: model.decode(model.encode(x))


@torch.no_grad()
def reconstruction_metrics(
    model: Any, split: ImageSplit | Pixels, picture: dict[str, Any]
) -> dict[str, float]:
    """`mse` of pixels on −1..1, `psnr` in dB, and the `code_perplexity` of all symbols."""
    images = all_images(split) if isinstance(split, ImageSplit) else split
    error, chosen = 0.0, torch.zeros(model.num_codes)
    with eval_mode(model):
        for rows in images.split(CHUNK_SIZE):
            x = normalize(rows, picture)
            reconstruction, found = model.autoencode(x)
            error += float((reconstruction - x).square().double().sum())
            chosen += torch.bincount(found.codes.flatten().cpu(), minlength=model.num_codes)
    mse = error / images.numel()
    return {"mse": mse, "psnr": psnr(mse), "code_perplexity": float(perplexity(chosen))}


@torch.no_grad()
def code_log_prob(model: Any, images: Pixels, picture: dict[str, Any]) -> Float[Tensor, "count classes"]:
    """log p of the symbols of each image in nats, given each class; one column for a prior without."""
    columns = []
    with eval_mode(model):
        codes = torch.cat([model.encode(normalize(x, picture)) for x in images.split(CHUNK_SIZE)])
        for label in range(max(1, model.num_classes)):
            parts = []
            for rows in codes.split(CHUNK_SIZE):
                labels = torch.full((len(rows),), label, device=rows.device) if model.num_classes else None
                log_p = model.prior(rows, labels).log_softmax(1).gather(1, rows[:, None])
                parts.append(log_p.double().sum((1, 2, 3)))
            columns.append(torch.cat(parts))
    return torch.stack(columns, 1).cpu()


def marginal(log_prob: Float[Tensor, "count classes"]) -> Float[Tensor, " count"]:
    """log p without a class: all are as likely."""
    return log_prob.logsumexp(1) - math.log(log_prob.shape[1])


def nats_per_code(model: Any, log_prob: Float[Tensor, "count classes"], labels: Labels) -> float:
    """−log p of a symbol given the image's class."""
    rows = torch.arange(len(log_prob))
    own = log_prob[rows, labels.cpu()] if model.num_classes else log_prob[:, 0]
    return float(-own.mean() / math.prod(model.grid))


def evaluate_split(model: Any, splits: Sequence[ImageSplit], picture: dict[str, Any]) -> dict[str, float]:
    """`loss` of the prior and `reconstruction_metrics`."""
    images, labels = torch.cat([all_images(s) for s in splits]), torch.cat([s.labels for s in splits])
    loss = nats_per_code(model, code_log_prob(model, images, picture), labels)
    return {"loss": loss} | reconstruction_metrics(model, images, picture)


def sample_images(
    model: Any,
    count: int,
    picture: dict[str, Any],
    *,
    labels: Labels | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    show_progress: bool = False,
) -> Pixels:
    """`count` images from the numbers of `seed`, the same on every device but for rounding, on the CPU.

    Args:
        labels: of each image; by default each class in turn.
    """
    device = next(model.parameters()).device
    labels = cycle_labels(model, count) if labels is None else labels
    u = torch.rand(count, *model.grid, generator=torch.Generator().manual_seed(seed))
    chunks, parts = torch.arange(count).split(CHUNK_SIZE), []
    with eval_mode(model), torch.no_grad():
        for rows in track(chunks, "sampling, batch", len(chunks)) if show_progress else chunks:
            condition = None if labels is None else labels[rows].to(device)
            images = model.decode(model.prior.sample(u[rows].to(device), condition, temperature))
            parts.append(to_uint8(check_finite(images, "samples"), picture).cpu())
    return torch.cat(parts)


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    num_samples: int = 64,
    seed: int = 0,
    label: str | int | None = None,
    temperature: float = 1.0,
    out: str | Path | None = None,
) -> list:
    """Images, uint8 (channel, height, width), or the name of the file that their grid was written to.

    Args:
        label: name of a class; without one each class in turn, one a column.
        temperature: of the symbols' distribution; below 1 samples are likelier and less diverse.
        out: a `.png` for a grid of all of them.

    Raises:
        BadInput: a number out of range, an unknown label, or one for a prior without classes.
    """
    if num_samples < 1:
        raise BadInput(f"give a number of images of at least 1, not {num_samples}")
    if not 0 < temperature < math.inf:
        raise BadInput(f"temperature must be a positive number, not {temperature}")
    labels, columns = cycle_labels(model, num_samples), grid_columns(model)
    if label is not None:
        if labels is None:
            raise BadInput("this prior knows no classes: train it on data that have some")
        labels, columns = torch.full((num_samples,), class_index(label, metadata["classes"])), None
    images = sample_images(
        model,
        num_samples,
        metadata["picture"],
        labels=labels,
        seed=seed,
        temperature=temperature,
        show_progress=True,
    )
    return list(images) if out is None else [str(save_image_grid(images, out, columns=columns))]


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    spec: str,
    *,
    held_out: bool,
    classifier: ClassifierSpec,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """`evaluate_split` on `spec`: its test split if `held_out`, else all of its images; and
    `evaluate_samples` against them, of as many samples as the recipe's `eval_samples`.

    Raises:
        BadInput: other classes than the prior's.
    """
    picture, device = metadata["picture"], next(model.parameters()).device
    data = load_images(spec, size=picture["size"], channels=picture["channels"], device=device, model=picture)
    if model.num_classes and list(data.classes) != metadata["classes"]:
        raise BadInput(
            f"{spec} has the classes {', '.join(data.classes)}, but the prior knows "
            f"{', '.join(metadata['classes'])}"
        )
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    metrics: dict[str, Any] = evaluate_split(model, splits, picture)
    count = metadata["eval_samples"] or (DEFAULT_SAMPLES if inception else 0)
    if count:
        labels = cycle_labels(model, count)
        sampler = partial(sample_images, model, count, picture, labels=labels, show_progress=True)
        metrics |= evaluate_samples(
            sampler, data, classifier, splits, target_labels=labels, inception=inception
        )
        metrics |= reconstruction_distance(model, rebuild(model), splits, data, classifier)
    return metrics | {"images": sum(map(len, splits))}


def predict(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str]) -> list[dict[str, Any]]:
    """How unusual each image is: its symbols' `log_prob` in nats, `label` (usual or unusual) and
    `validation_rank`, the fraction of validation images whose symbols are no likelier; and the `psnr` of its
    reconstruction in dB.

    Args:
        inputs: image files, or folders of them.

    Raises:
        BadInput: a file is missing, or is no image.
    """
    device, picture, answers = next(model.parameters()).device, metadata["picture"], []
    for file in list_files(inputs):
        image = preprocess(file, picture).to(device)
        log_prob = check_finite(marginal(code_log_prob(model, image, picture)), "likelihoods").item()
        verdict = classify_score(log_prob, metadata.get("score_quantiles"))
        decibels = reconstruction_metrics(model, image, picture)["psnr"]
        answers.append({"input": str(file), **verdict, "log_prob": log_prob, "psnr": decibels})
    return answers


def explain(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str], out: Path) -> None:
    """A row for each image: the image, its reconstruction, and the absolute difference of the two."""
    device, rows = next(model.parameters()).device, []
    for file in list_files(inputs):
        image = preprocess(file, metadata["picture"]).to(device)
        reconstruction = reconstruct(model, rebuild(model), image, metadata["picture"])
        image = image.byte().cpu()
        rows += [image, reconstruction, (image.int() - reconstruction.int()).abs().byte()]
    save_image_grid(torch.cat(rows), out, columns=3)
