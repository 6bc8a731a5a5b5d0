"""What an auto-encoder knows, on sheets: samples, pictures rebuilt, paths between them, its latent plane,
and pictures with a part missing, filled in."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from torchstone.parts.vae.elbo import drawn
from torchstone.plots.sample_grid import sheet
from torchstone.tasks.anomaly import finite

Pictures = Float[Tensor, "count channel height width"]
Pixels = UInt8[Tensor, "count channel height width"]

COLUMNS, PATHS = 12, 8  # of a sheet of pictures; paths between two
SIDE, REACH = 15, 0.02  # of the plane; the share of N(0, 1) beyond its edge
FILLED = 4  # ways in which each picture is filled in
AGAIN, USUAL = 100, 200  # rounds of filling in; samples that tell how it begins
GREY = 110  # of what is missing


def shades(x: Pictures) -> Pixels:
    """0..1 as 0..255, on the CPU."""
    return (x * 255).round().clamp(0, 255).byte().cpu()


@torch.no_grad()
def decoded(model: Any, z: Float[Tensor, "count latent"]) -> Pixels:
    """The chance of each pixel, as pictures.

    Raises:
        NotFinite: one of them is NaN or infinite.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    parts = [model.decode(rows).sigmoid() for rows in z.to(device).split(500)]
    model.train(was_training)
    return shades(finite(torch.cat(parts), "samples"))


def painted(model: Any, count: int, *, seed: int = 0, temperature: float = 1.0) -> Pixels:
    """`count` samples, from the noise of `seed`."""
    z = torch.randn(count, model.latent, generator=torch.Generator().manual_seed(seed))
    return decoded(model, temperature * z)


@torch.no_grad()
def codes(model: Any, x: Pictures) -> tuple[Tensor, Tensor]:
    """mean and logvar, in evaluation mode."""
    was_training = model.training
    found = model.eval().encode(x)
    model.train(was_training)
    return found


def rebuilt(model: Any, x: Pictures, file: str | Path, rows: int = 4) -> Path:
    """Pictures, and below each what its code alone says of it."""
    x = x[: rows * COLUMNS]
    pairs = zip(shades(x).split(COLUMNS), decoded(model, codes(model, x)[0]).split(COLUMNS), strict=True)
    return sheet(torch.cat([each for pair in pairs for each in pair]), file, columns=COLUMNS)


def paths(model: Any, x: Pictures, file: str | Path) -> Path:
    """A row each: on the way from one picture's code to another's, along the straight line."""
    ends = codes(model, x[: 2 * PATHS])[0]
    share = torch.linspace(0, 1, COLUMNS, device=ends.device)[None, :, None]
    first, last = ends[0::2, None], ends[1::2, None]
    way = torch.lerp(first[: len(last)], last, share.expand(len(last), -1, ends.shape[1]))
    return sheet(decoded(model, way.flatten(0, 1)), file, columns=COLUMNS)


def plane(model: Any, x: Pictures, file: str | Path) -> Path:
    """A plane of codes: the two latents that say most of `x`, each from the lower to the upper end of
    N(0, 1) in steps of like chance, the others 0 (Kingma and Welling 2013, figure 4)."""
    mean, logvar = codes(model, x[:2000])
    said = (mean.square() + logvar.exp() - 1 - logvar).mean(0)
    most = said.argsort(descending=True)[:2].sort().values.cpu()
    steps = torch.special.ndtri(torch.linspace(REACH, 1 - REACH, SIDE, dtype=torch.float64)).float()
    z = torch.zeros(SIDE * SIDE, model.latent)
    z[:, most[-1]] = steps.flip(0).repeat_interleave(SIDE)
    z[:, most[0]] = steps.repeat(SIDE)
    return sheet(decoded(model, z), file, columns=SIDE)


@torch.no_grad()
def fill(
    model: Any,
    x: Pictures,
    missing: Bool[Tensor, "#count #channel height width"],
    *,
    again: int = AGAIN,
    seed: int = 0,
) -> Pictures:
    """`x` with what is missing drawn anew: code and missing pixels in turn, each given the other, which
    after many rounds is a sample of p(missing | known) as the model has it (Rezende et al. 2014,
    arXiv:1401.4082, appendix F). It begins with each pixel on as often as in samples; the last round gives
    chances, not draws.
    """
    was_training, generator = model.training, torch.Generator().manual_seed(seed)
    model.eval()

    def on(chances: Tensor) -> Tensor:
        u = torch.rand(x.shape, generator=generator).to(x.device)
        return (u < chances).to(x.dtype)

    z = torch.randn(USUAL, model.latent, generator=generator).to(x.device)
    now = torch.where(missing, on(finite(model.decode(z).sigmoid(), "pictures").mean(0)), x)
    for number in range(again):
        mean, logvar = model.encode(now)
        epsilon = torch.randn(mean.shape, generator=generator).to(x.device)
        chances = finite(model.decode(drawn(mean, logvar, epsilon)).sigmoid(), "pictures")
        now = torch.where(missing, chances if number == again - 1 else on(chances), x)
    model.train(was_training)
    return now


def filled(model: Any, x: Pictures, file: str | Path, rows: int = 8) -> Path:
    """A row each: what is known of a picture, a half of it, ways to fill it in, and the picture."""
    x = x[:rows]
    missing = torch.zeros_like(x, dtype=torch.bool)
    side = x.shape[-1]
    missing[0::2, ..., side // 2 :] = True  # the right half, or the lower one
    missing[1::2, ..., side // 2 :, :] = True
    known = shades(x).masked_fill(missing.cpu(), GREY)
    ways = [shades(fill(model, x, missing, seed=each)) for each in range(FILLED)]
    told = torch.stack([known, *ways, shades(x)], 1).flatten(0, 1)
    return sheet(told, file, columns=FILLED + 2)
