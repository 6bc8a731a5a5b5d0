"""Use of a trained VAE: sampling, inpainting, evaluation, and anomaly scores with their explanation."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.dequantized_batches import all_images
from torchstone.data.vision.preprocess import preprocess
from torchstone.errors import BadInput
from torchstone.plots.sample_grid import save_image_grid
from torchstone.tasks.anomaly import check_finite, classify_score
from torchstone.tasks.evaluate_samples import DEFAULT_SAMPLES, evaluate_samples
from torchstone.tasks.inference import list_files
from torchstone.tasks.vae.figures import GIBBS_STEPS, decode_images, encode, inpaint, sample_images, to_uint8
from torchstone.tasks.vae.train import FEW_SAMPLES, encode_all, evaluate_bounds, fixed_binarization
from torchstone.tasks.vision.feature_classifier import ClassifierSpec


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    num_samples: int = 64,
    seed: int = 0,
    temperature: float = 1.0,
    out: str | Path | None = None,
    inpaint_image: str | Path | None = None,
    mask: str | Path | None = None,
    gibbs_steps: int = GIBBS_STEPS,
) -> list:
    """Images, uint8 (channel, height, width), or the name of the file that their grid was written to.

    Args:
        temperature: standard deviation of the codes; below 1 samples are likelier and less diverse.
        out: a `.png` for a grid of all of them.
        inpaint_image, mask: an image, and one of its size that is white where it is to be filled in.
        gibbs_steps: of inpainting.

    Raises:
        BadInput: a number out of range, an image without a mask, or a mask without an image.
        NotFinite: a sample has a number that is NaN or infinite.
    """
    if num_samples < 1:
        raise BadInput(f"give a number of images of at least 1, not {num_samples}")
    if not 0 < temperature < float("inf"):
        raise BadInput(f"temperature must be a positive number, not {temperature}")
    if (inpaint_image is None) != (mask is None):
        raise BadInput("give both an image to inpaint and a mask, which is white where to fill in")
    if inpaint_image is not None and mask is not None:
        if gibbs_steps < 1:
            raise BadInput(f"gibbs_steps must be at least 1, not {gibbs_steps}")
        device = next(model.parameters()).device
        plain = metadata["picture"] | {"ink": False}  # the image keeps its position in the frame
        x = fixed_binarization(preprocess(inpaint_image, plain).to(device), metadata["binarization"])
        missing = preprocess(mask, plain | {"channels": 1}).to(device) >= 128
        copies = x.expand(num_samples, -1, -1, -1)
        images = to_uint8(inpaint(model, copies, missing, gibbs_steps=gibbs_steps, seed=seed))
    else:
        images = sample_images(model, num_samples, seed=seed, temperature=temperature)
    return list(images) if out is None else [str(save_image_grid(images, out))]


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    spec: str,
    *,
    held_out: bool,
    classifier: ClassifierSpec,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """`evaluate_bounds` on `spec`: its test split if `held_out`, else all of its images; and
    `evaluate_samples` against them, of as many samples as the recipe's `eval_samples`.

    Raises:
        NotFinite: a bound is NaN or infinite.
    """
    picture, device = metadata["picture"], next(model.parameters()).device
    data = load_images(spec, size=picture["size"], channels=picture["channels"], device=device, model=picture)
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    images = torch.cat([all_images(split) for split in splits])
    metrics = evaluate_bounds(model, images, metadata["binarization"])
    check_finite(torch.tensor([metrics["elbo"], metrics["iwae_50"]]), "bounds")
    count = metadata["eval_samples"] or (DEFAULT_SAMPLES if inception else 0)
    if count:
        sampler = partial(sample_images, model, count)
        metrics |= evaluate_samples(sampler, data, classifier, splits, inception=inception)
    return metrics | {"images": len(images)}


def predict(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str]) -> list[dict[str, Any]]:
    """How unusual each image is: its `elbo` in nats, `label` (usual or unusual) and `validation_rank`, the
    fraction of validation images whose ELBO is no higher.

    Args:
        inputs: image files, or folders of them.

    Raises:
        BadInput: a file is missing, or is no image.
        NotFinite: a bound is NaN or infinite.
    """
    device, answers = next(model.parameters()).device, []
    for file in list_files(inputs):
        image = preprocess(file, metadata["picture"]).to(device)
        stats = encode_all(model, image, metadata["binarization"], FEW_SAMPLES)
        elbo = check_finite(stats.elbo, "bounds").item()
        verdict = classify_score(elbo, metadata.get("score_quantiles"))
        answers.append({"input": str(file), **verdict, "elbo": elbo, "kl": stats.kl.sum().item()})
    return answers


def explain(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str], out: Path) -> None:
    """A row for each image: the image, its reconstruction, and the absolute difference of the two."""
    device = next(model.parameters()).device
    rows = []
    for file in list_files(inputs):
        x = fixed_binarization(preprocess(file, metadata["picture"]).to(device), metadata["binarization"])
        reconstruction = decode_images(model, encode(model, x)[0])
        difference = (to_uint8(x).int() - reconstruction.int()).abs().byte()
        rows += [to_uint8(x), reconstruction, difference]
    save_image_grid(torch.cat(rows), out, columns=3)
