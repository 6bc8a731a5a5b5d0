"""Use of a trained flow: sampling, and exact likelihoods for evaluation and anomaly scores."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchstone.data.tabular.dataset import load_rows
from torchstone.data.tabular.points import load_points
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.preprocess import preprocess
from torchstone.errors import BadInput
from torchstone.parts.flow.likelihood import bits_per_dim
from torchstone.parts.modes import eval_mode
from torchstone.plots.density_2d import density_images
from torchstone.plots.sample_grid import save_image_grid
from torchstone.tasks.anomaly import check_finite, classify_score
from torchstone.tasks.evaluate_samples import DEFAULT_SAMPLES, evaluate_samples
from torchstone.tasks.flow.latents import COLUMNS, NUM_PATHS, class_direction, decode_latents, encode_images
from torchstone.tasks.flow.train import image_log_prob, point_log_prob, sample_images
from torchstone.tasks.inference import list_files
from torchstone.tasks.latent_paths import latent_paths
from torchstone.tasks.vision.feature_classifier import ClassifierSpec


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    num_samples: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    from_label: str | None = None,
    to_label: str | None = None,
    image: str | Path | None = None,
    out: str | Path | None = None,
) -> list:
    """Images, uint8 (channel, height, width), or rows of features; or the name of the file that they were
    plotted to.

    With `from_label` and `to_label` each row of the grid is a path: from a sample around the mean latent of
    the first class, or from `image`, along the difference between the mean latents of both.

    Args:
        num_samples: by default 64; of paths 8, or one from each image.
        temperature: standard deviation of the noise; below 1 samples are likelier and less diverse.
        image: a file, or a folder of them.
        out: a `.png`: a grid of images, or a plot of the density and of samples from it.

    Raises:
        BadInput: a number out of range, a plot of rows with other than two features, a class that the run has
            no mean latent of.
        NotFinite: a sample is NaN or infinite.
    """
    is_path = not (from_label is None and to_label is None and image is None)
    if is_path and image is not None and num_samples is not None:
        raise BadInput("a path begins at each image: leave the number of samples out")
    if num_samples is None:
        num_samples = NUM_PATHS if is_path else 64
    if num_samples < 1:
        raise BadInput(f"give a number of samples of at least 1, not {num_samples}")
    if not 0 < temperature < float("inf"):
        raise BadInput(f"temperature must be a positive number, not {temperature}")
    if is_path:
        start, move = class_direction(metadata.get("class_latents"), from_label, to_label)
        if image is None:
            generator = torch.Generator().manual_seed(seed)
            z = start + temperature * torch.randn(num_samples, len(start), generator=generator)
        else:
            files = [preprocess(file, metadata["picture"]) for file in list_files([image])]
            pixels = torch.cat(files).to(next(model.parameters()).device)
            z = encode_images(model, pixels, metadata["pixel_levels"]).cpu()
        images = decode_latents(model, latent_paths(z, z + move, COLUMNS), metadata["pixel_levels"])
        return list(images) if out is None else [str(save_image_grid(images, out, columns=COLUMNS))]
    if "picture" in metadata:
        images = sample_images(
            model, num_samples, metadata["pixel_levels"], seed=seed, temperature=temperature
        )
        return list(images) if out is None else [str(save_image_grid(images, out))]
    with eval_mode(model):
        rows = model.sample(num_samples, seed=seed, temperature=temperature).cpu()
    if out is None:
        return list(rows)
    if len(metadata["features"]) != 2:
        raise BadInput(f"rows of {len(metadata['features'])} features cannot be plotted: leave --out away")
    return [str(save_image_grid(density_images(model, rows), out, columns=2))]


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    spec: str,
    *,
    held_out: bool,
    classifier: ClassifierSpec,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """The likelihood of `spec`, its test split if `held_out`, else all of it. Of images: bits per dimension,
    a bound by one sample of dequantization noise; where the recipe asks for several, `importance_bound` by
    these; and `evaluate_samples` against them, of as many samples as the recipe's `eval_samples`. Of rows:
    `loss`, −log p in nats.

    Raises:
        BadInput: a table of other features, or a table and `inception`.
        NotFinite: a likelihood is NaN or infinite.
    """
    device = next(model.parameters()).device
    if "picture" not in metadata:
        if inception is not None:
            raise BadInput("points are no images: leave --inception out")
        points = load_points(spec, device, metadata["features"])
        splits = [points.test] if held_out else [points.train, points.val, points.test]
        log_prob = torch.cat([point_log_prob(model, rows) for rows in splits])
        return {"loss": -check_finite(log_prob, "likelihoods").mean().item(), "rows": len(log_prob)}
    picture, levels = metadata["picture"], metadata["pixel_levels"]
    data = load_images(spec, size=picture["size"], channels=picture["channels"], device=device, model=picture)
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    log_prob = torch.cat([image_log_prob(model, split, levels) for split in splits])
    metrics: dict[str, Any] = {"bits_per_dimension": to_bits_per_dim(log_prob, metadata).mean().item()}
    if importance_samples := metadata.get("importance_samples"):
        bounds = [image_log_prob(model, split, levels, importance_samples) for split in splits]
        metrics["importance_bound"] = to_bits_per_dim(torch.cat(bounds), metadata).mean().item()
    count = metadata["eval_samples"] or (DEFAULT_SAMPLES if inception else 0)
    if count:
        sampler = partial(sample_images, model, count, levels)
        metrics |= evaluate_samples(sampler, data, classifier, splits, inception=inception)
    return metrics | {"images": len(log_prob)}


def to_bits_per_dim(log_prob: Tensor, metadata: dict[str, Any]) -> Tensor:
    picture = metadata["picture"]
    dimensions = picture["channels"] * picture["size"] ** 2
    return bits_per_dim(check_finite(log_prob, "likelihoods"), dimensions, metadata["pixel_levels"])


def predict(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str]) -> list[dict[str, Any]]:
    """The likelihood of each input: `log_density` in nats (of images also `bits_per_dimension`), `label`
    (usual or unusual) and `validation_rank`, the fraction of validation data that are no likelier.

    Args:
        inputs: image files, or folders of them; of rows, files of them, or numbers separated by commas.

    Raises:
        BadInput: a file is missing, or holds something else.
        NotFinite: a likelihood is NaN or infinite.
    """
    device, quantiles = next(model.parameters()).device, metadata.get("score_quantiles")
    answers = []
    if "picture" not in metadata:
        for each in inputs:
            rows = load_rows(each, metadata["features"])
            log_prob = point_log_prob(model, rows.float().to(device))
            scores = check_finite(log_prob, "likelihoods").tolist()
            for number, score in enumerate(scores, 1):
                name = f"{each}, row {number}" if len(scores) > 1 else str(each)
                answers.append({"input": name, **classify_score(score, quantiles), "log_density": score})
        return answers
    for file in list_files(inputs):
        image = preprocess(file, metadata["picture"]).to(device)
        log_prob = image_log_prob(model, image, metadata["pixel_levels"])
        score, bits = log_prob.item(), to_bits_per_dim(log_prob, metadata).item()
        verdict = classify_score(score, quantiles)
        answers.append({"input": str(file), **verdict, "log_density": score, "bits_per_dimension": bits})
    return answers
