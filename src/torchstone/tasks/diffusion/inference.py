"""What a trained diffusion is used for: pictures of a label or a text, filling in, and its figures."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchstone.data.text.tokenizers import from_metadata
from torchstone.data.vision.captioned import Captioned, ids, load_captioned
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.preprocess import preprocess
from torchstone.engine.console import notify
from torchstone.errors import BadInput
from torchstone.metrics import classifier_features, memorization
from torchstone.metrics.inception import by_inception
from torchstone.metrics.inception import inception as load_inception
from torchstone.plots.sample_grid import sheet
from torchstone.tasks.diffusion.classifier_guidance import around
from torchstone.tasks.diffusion.conditioning import context, place_of
from torchstone.tasks.diffusion.likelihood import bits
from torchstone.tasks.diffusion.train import drawn
from torchstone.tasks.evaluate_samples import worth_of

JUDGED = 500  # pictures that are drawn to be judged


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    count: int = 16,
    seed: int = 0,
    label: str | int | None = None,
    prompt: str | None = None,
    out: str | Path | None = None,
    guidance: float | None = None,
    steer: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    eta: float = 0.0,
    known: str | Path | None = None,
    mask: str | Path | None = None,
    again: int = 5,
    classifier: Any = None,
) -> list:
    """Pictures, uint8 (channel, height, width), or the name of the file they were drawn into.

    Args:
        label: a class by name; without one each in turn.
        prompt: what is to be drawn, for networks that read; below each picture on a sheet is then the
            training picture nearest to it.
        out: a `.png` for all of them on one sheet.
        guidance: s, how far beyond what the condition asks for (`denoise.told`); 1 is not beyond.
        steer: scale of a classifier's guidance towards the label (`tasks/diffusion/classifier_guidance.py`); the network need
            not know labels for it.
        steps, sampler, eta: of the way (`denoise.way`); by default the recipe's.
        known, mask: a picture and one of its size that is white where it is to be drawn anew.
        again: how often each step is gone then.
        classifier: of `quality.judge`.

    Raises:
        BadInput: a number, a label, a word or a file that cannot be.
    """
    if count < 1:
        raise BadInput(f"give a number of pictures of at least 1, not {count}")
    if (known is None) != (mask is None):
        raise BadInput("give both a known picture and a mask, which is white where to draw")
    usual = metadata["sampling"]
    how: dict[str, Any] = {"steps": usual["steps"] if steps is None else steps, "eta": eta}
    how["sampler"] = sampler or usual["sampler"]
    how["guidance"] = usual["guidance"] if guidance is None else guidance
    if known is not None and mask is not None:
        how |= {"known": _known(metadata["picture"], known, mask, model), "again": again}
    asked = None
    if steer is not None:
        data = _data(metadata, metadata["source"], next(model.parameters()).device)
        if isinstance(data, Captioned):
            raise BadInput("a classifier steers towards a label, and captions are none: --guidance")
        rows = torch.arange(count) % len(data.classes)
        if label is not None:
            rows = torch.full((count,), place_of(label, list(data.classes)))
        how["says"] = around(model, classifier_features.judge(data, classifier), rows, steer)
        asked = rows if "classes" in metadata else None
    elif prompt is not None or label is not None or "classes" in metadata:
        asked = context(metadata, count, label, prompt)
    made = drawn(model, count, context=asked, seed=seed, shown=True, **how)
    if out is None:
        return list(made)
    if prompt is not None:
        try:
            data = _data(metadata, metadata["source"], "cpu")
        except BadInput as error:
            notify(f"without the nearest training pictures: {error}")
        else:
            return [str(memorization.beside(made, data, out, asked=[prompt] * count))]
    turns = label is None and len(metadata.get("classes", ())) == 10
    return [str(sheet(made, out, columns=10 if turns else None))]


def _data(metadata: dict[str, Any], spec: str, device: Any) -> Any:
    """Pictures of a source, with captions if the network reads them."""
    size = metadata["picture"]["size"]
    if "tokenizer" in metadata:
        return load_captioned(spec, size=size, device=device)
    return load_images(spec, size=size, channels=metadata["picture"]["channels"], device=device)


def _known(picture: dict, known: str | Path, mask: str | Path, model: Any):
    device = next(model.parameters()).device
    plain = picture | {"ink": False}  # where it lies in its frame is how it is to stay
    pixels = preprocess(known, plain).to(device)
    free = preprocess(mask, plain | {"channels": 1}).to(device)
    return pixels.float() / 127.5 - 1, free < 128


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    spec: str,
    *,
    held_out: bool,
    classifier: Any = None,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """Bits per dimension of `spec`'s test split if `held_out`, else of every picture of it; and what up to
    500 samples are worth beside them: of labels by `quality.compared`, if it has the classes that the
    network knows; of captions, how they `match` the pictures with these captions.

    Args:
        classifier, inception: of `worth.worth_of`.

    Raises:
        BadInput: Inception is asked for, and the classes are not those the network knows.
    """
    device = next(model.parameters()).device
    data = _data(metadata, spec, device)
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    pictures = torch.cat([s.take(torch.arange(len(s), device=device)) for s in splits])
    found = {"bits_per_dimension": bits(model, pictures), "pictures": len(pictures)}
    draw = partial(drawn, model, shown=True, **metadata["sampling"])
    if isinstance(data, Captioned):
        network = None if inception is None else load_inception(inception, device)
        labels = torch.cat([split.labels.cpu() for split in splits])
        rows = classifier_features.spread(len(labels), JUDGED)
        captions = [data.captions[row] for row in labels[rows].tolist()]
        asked = ids(from_metadata(metadata["tokenizer"]), captions, metadata["length"])
        made = draw(len(asked), context=asked)
        found |= {"match": memorization.matched(made, pictures[rows]), "samples": len(made)}
        return found if network is None else found | by_inception(made, splits, network)
    asked = None
    if "classes" in metadata:
        if list(data.classes) != metadata["classes"]:
            if inception is not None:
                raise BadInput(f"{spec} has other classes than the network's: samples cannot be compared")
            return found
        asked = context(metadata, JUDGED)
    found |= worth_of(
        lambda: draw(JUDGED, context=asked),
        data, classifier, splits, asked=asked, inception=inception,
    )  # fmt: skip
    return found | {"samples": JUDGED}
