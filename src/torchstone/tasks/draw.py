"""What a trained diffusion is used for: pictures of a label or a text, filling in, and its figures."""

from pathlib import Path
from typing import Any

import torch

from torchstone.errors import BadInput
from torchstone.streams.captions import load_captioned
from torchstone.streams.framing import prepare
from torchstone.streams.images import load_pictures
from torchstone.tasks.bits import bits
from torchstone.tasks.conditions import context
from torchstone.tasks.diffuse import drawn


def sample(
    model: Any,
    card: dict[str, Any],
    *,
    count: int = 16,
    seed: int = 0,
    label: str | int | None = None,
    prompt: str | None = None,
    out: str | Path | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    eta: float = 0.0,
    known: str | Path | None = None,
    mask: str | Path | None = None,
    again: int = 5,
) -> list:
    """Pictures, uint8 (channel, height, width), or the name of the file they were drawn into.

    Args:
        label: a class by name; without one each in turn.
        prompt: what is to be drawn, for networks that read.
        out: a `.png` for all of them on one sheet.
        guidance: s, how far beyond what the condition asks for (`denoise.told`); 1 is not beyond.
        steps, sampler, eta: of the way (`denoise.way`); by default the recipe's.
        known, mask: a picture and one of its size that is white where it is to be drawn anew.
        again: how often each step is gone then.

    Raises:
        BadInput: a number, a label, a word or a file that cannot be.
    """
    if count < 1:
        raise BadInput(f"give a number of pictures of at least 1, not {count}")
    if (known is None) != (mask is None):
        raise BadInput("give both a known picture and a mask, which is white where to draw")
    usual = card["sampling"]
    how: dict[str, Any] = {"steps": steps or usual["steps"], "eta": eta}
    how["sampler"] = sampler or usual["sampler"]
    if known is not None and mask is not None:
        how |= {"known": _known(card["picture"], known, mask, model), "again": again}
    pictures = drawn(
        model,
        count,
        context=context(card, count, label, prompt),
        seed=seed,
        guidance=usual["guidance"] if guidance is None else guidance,
        shown=True,
        **how,
    )
    if out is None:
        return list(pictures)
    from torchstone.tasks.samples import sheet

    return [str(sheet(pictures, Path(out)))]


def _known(picture: dict, known: str | Path, mask: str | Path, model: Any):
    device = next(model.parameters()).device
    plain = picture | {"ink": False}  # where it lies in its frame is how it is to stay
    pixels = prepare(known, plain).to(device)
    free = prepare(mask, plain | {"channels": 1}).to(device)
    return pixels.float() / 127.5 - 1, free < 128


def evaluate(model: Any, card: dict[str, Any], spec: str, *, held_out: bool) -> dict[str, Any]:
    """Bits per dimension of `spec`: of its test split if `held_out`, else of every picture of it."""
    picture, device = card["picture"], next(model.parameters()).device
    size = picture["size"]
    if "tokenizer" in card:
        data: Any = load_captioned(spec, size=size, device=device)
    else:
        data = load_pictures(spec, size=size, channels=picture["channels"], device=device)
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    pictures = torch.cat([s.take(torch.arange(len(s), device=device)) for s in splits])
    return {"bits_per_dimension": bits(model, pictures), "pictures": len(pictures)}
