"""What a trained flow is used for: samples, how likely inputs are, and its figures."""

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
from torchstone.parts.flow.dequantization import bits
from torchstone.plots.density_2d import painted
from torchstone.plots.sample_grid import sheet
from torchstone.tasks import evaluate_samples as judging
from torchstone.tasks.anomaly import files, finite, verdict
from torchstone.tasks.flow.train_images import drawn, nats
from torchstone.tasks.flow.train_points import of_rows


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    count: int = 64,
    seed: int = 0,
    temperature: float = 1.0,
    out: str | Path | None = None,
) -> list:
    """Pictures, uint8 (channel, height, width), or rows of numbers; or the name of the file they were
    drawn into.

    Args:
        temperature: deviation of the noise; below 1 likelier and more alike.
        out: a `.png`: a sheet of pictures, or the plane's density beside points drawn from it.

    Raises:
        BadInput: no samples asked for, no temperature, or rows of other than two numbers drawn.
        NotFinite: a sample is NaN or infinite.
    """
    if count < 1:
        raise BadInput(f"give a number of samples of at least 1, not {count}")
    if not 0 < temperature < float("inf"):
        raise BadInput(f"temperature must be a positive number, not {temperature}")
    if "picture" in metadata:
        made = drawn(model, count, metadata["levels"], seed=seed, temperature=temperature)
        return list(made) if out is None else [str(sheet(made, out))]
    rows = model.sample(count, seed=seed, temperature=temperature).cpu()
    if out is None:
        return list(rows)
    if len(metadata["features"]) != 2:
        raise BadInput(f"rows of {len(metadata['features'])} numbers cannot be drawn: leave --out away")
    return [str(sheet(painted(model, rows), out, columns=2))]


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    spec: str,
    *,
    held_out: bool,
    classifier: Any = None,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """How likely `spec` is, its test split if `held_out`, else all of it: bits a dimension of pictures,
    and what as many samples as the recipe had `judged` are worth beside them; `loss`, −log p in nats, of
    rows.

    Args:
        classifier, inception: of `worth.worth_of`.

    Raises:
        BadInput: a table of other features, or one and `inception`.
        NotFinite: a likelihood is NaN or infinite.
    """
    device = next(model.parameters()).device
    if "picture" not in metadata:
        if inception is not None:
            raise BadInput("points are no pictures: leave --inception out")
        points = load_points(spec, device)
        agree(spec, list(points.features), metadata["features"])
        splits = [points.test] if held_out else [points.train, points.val, points.test]
        each = torch.cat([of_rows(model, rows) for rows in splits])
        return {"loss": -finite(each, "likelihoods").mean().item(), "rows": len(each)}
    picture = metadata["picture"]
    data = load_images(spec, size=picture["size"], channels=picture["channels"], device=device)
    parts = [data.test] if held_out else [data.train, data.val, data.test]
    each = torch.cat([nats(model, split, metadata["levels"]) for split in parts])
    found: dict[str, Any] = {"bits_per_dimension": in_bits(each, metadata).mean().item()}
    count = metadata["judged"] or (judging.FEW if inception else 0)
    if classifier is not None and count:
        draw = partial(drawn, model, count, metadata["levels"])
        found |= judging.worth_of(draw, data, classifier, parts, inception=inception)
    return found | {"pictures": len(each)}


def agree(spec: str, found: list[str], known: list[str]) -> None:
    """Raises `BadInput` if the numbers of a row are not those the model was trained on."""
    if found != known:
        raise BadInput(
            f"{spec} has the features {', '.join(found)}, but the model was trained on {', '.join(known)}"
        )


def in_bits(each: Tensor, metadata: dict[str, Any]) -> Tensor:
    picture = metadata["picture"]
    dimensions = picture["channels"] * picture["size"] ** 2
    return bits(finite(each, "likelihoods"), dimensions, metadata["levels"])


def predict(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str]) -> list[dict[str, Any]]:
    """How likely each input is: `log_density` in nats (of pictures also `bits_per_dimension`), `label`
    (usual or unusual) and `probability`, the share of validation data that are no likelier.

    Args:
        inputs: image files, or folders of them; of rows, files of them, or numbers with commas between.

    Raises:
        BadInput: a file is missing, or holds something else.
        NotFinite: a likelihood is NaN or infinite.
    """
    device, usual = next(model.parameters()).device, metadata.get("usual")
    answers = []
    if "picture" not in metadata:
        for each in inputs:
            rows = load_rows(each, metadata["features"])
            found = finite(of_rows(model, rows.float().to(device)), "likelihoods").tolist()
            for number, score in enumerate(found, 1):
                name = f"{each}, row {number}" if len(found) > 1 else str(each)
                answers.append({"input": name, **verdict(score, usual), "log_density": score})
        return answers
    for file in files(inputs):
        each = nats(model, preprocess(file, metadata["picture"]).to(device), metadata["levels"])
        score, cost = each.item(), in_bits(each, metadata).item()
        said = verdict(score, usual)
        answers.append({"input": str(file), **said, "log_density": score, "bits_per_dimension": cost})
    return answers
