"""What a trained auto-encoder is used for: samples, filling in, how unusual a picture is, its figures."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.preprocess import preprocess
from torchstone.errors import BadInput
from torchstone.plots.sample_grid import sheet
from torchstone.tasks import evaluate_samples as judging
from torchstone.tasks.anomaly import files, finite, verdict
from torchstone.tasks.flow.train_images import everything
from torchstone.tasks.vae.figures import AGAIN, codes, decoded, fill, painted, shades
from torchstone.tasks.vae.train import FEW, fixed, looked, worth


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    count: int = 64,
    seed: int = 0,
    temperature: float = 1.0,
    out: str | Path | None = None,
    known: str | Path | None = None,
    mask: str | Path | None = None,
    again: int = AGAIN,
) -> list:
    """Pictures, uint8 (channel, height, width), or the name of the sheet they were drawn into.

    Args:
        temperature: deviation of the codes; below 1 likelier and more alike.
        out: a `.png` for all of them on one sheet.
        known, mask: a picture and one of its size that is white where it is to be filled in.
        again: rounds of filling in.

    Raises:
        BadInput: a number that cannot be, a picture without a mask, or a mask without a picture.
        NotFinite: a picture has a number that is NaN or infinite.
    """
    if count < 1:
        raise BadInput(f"give a number of pictures of at least 1, not {count}")
    if not 0 < temperature < float("inf"):
        raise BadInput(f"temperature must be a positive number, not {temperature}")
    if (known is None) != (mask is None):
        raise BadInput("give both a known picture and a mask, which is white where to fill in")
    if known is not None and mask is not None:
        if again < 1:
            raise BadInput(f"give at least 1 round of filling in, not {again}")
        device = next(model.parameters()).device
        plain = metadata["picture"] | {"ink": False}  # where it lies in its frame is how it is to stay
        x = fixed(preprocess(known, plain).to(device), metadata["pixels"])
        missing = preprocess(mask, plain | {"channels": 1}).to(device) >= 128
        many = x.expand(count, -1, -1, -1)
        made = shades(fill(model, many, missing, again=again, seed=seed))
    else:
        made = painted(model, count, seed=seed, temperature=temperature)
    return list(made) if out is None else [str(sheet(made, out))]


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    spec: str,
    *,
    held_out: bool,
    classifier: Any = None,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """`latent.worth` of `spec`: of its test split if `held_out`, else of every picture of it; and what as
    many samples as the recipe had `judged` are worth beside them.

    Args:
        classifier, inception: of `worth.worth_of`.

    Raises:
        NotFinite: a bound is NaN or infinite.
    """
    picture, device = metadata["picture"], next(model.parameters()).device
    data = load_images(spec, size=picture["size"], channels=picture["channels"], device=device)
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    pictures = torch.cat([everything(split) for split in splits])
    found = worth(model, pictures, metadata["pixels"])
    finite(torch.tensor([found["bound"], found["bound_50"]]), "bounds")
    count = metadata["judged"] or (judging.FEW if inception else 0)
    if classifier is not None and count:
        draw = partial(painted, model, count)
        found |= judging.worth_of(draw, data, classifier, splits, inception=inception)
    return found | {"pictures": len(pictures)}


def predict(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str]) -> list[dict[str, Any]]:
    """How unusual each picture is: its `bound` in nats, `label` (usual or unusual) and `probability`, the
    share of validation pictures whose bound is no higher.

    Args:
        inputs: image files, or folders of them.

    Raises:
        BadInput: a file is missing, or is no picture.
        NotFinite: a bound is NaN or infinite.
    """
    device, answers = next(model.parameters()).device, []
    for file in files(inputs):
        picture = preprocess(file, metadata["picture"]).to(device)
        found = looked(model, picture, metadata["pixels"], FEW)
        bound = finite(found.bound, "bounds").item()
        said = verdict(bound, metadata.get("usual"))
        answers.append(
            {
                "input": str(file),
                **said,
                "bound": bound,
                "divergence": found.divergences.sum().item(),
            }
        )
    return answers


def explain(model: Any, metadata: dict[str, Any], inputs: Sequence[Path | str], out: Path) -> None:
    """A row for each picture: as it is seen, as it would be expected, and light where the two differ."""
    device = next(model.parameters()).device
    rows = []
    for file in files(inputs):
        x = fixed(preprocess(file, metadata["picture"]).to(device), metadata["pixels"])
        expected = decoded(model, codes(model, x)[0])
        apart = (shades(x).int() - expected.int()).abs().byte()
        rows += [shades(x), expected, apart]
    sheet(torch.cat(rows), out, columns=3)
