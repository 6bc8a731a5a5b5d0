"""Image grids of a VAE: samples, reconstructions, interpolations, the latent plane, and inpainting."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from torchstone.parts.modes import eval_mode
from torchstone.parts.vae.elbo import kl_to_prior, reparameterize
from torchstone.plots.sample_grid import save_image_grid
from torchstone.tasks.anomaly import check_finite
from torchstone.tasks.latent_paths import latent_paths

Images = Float[Tensor, "count channel height width"]
Pixels = UInt8[Tensor, "count channel height width"]

COLUMNS, NUM_PATHS = 12, 8  # of a grid; interpolations
GRID_SIDE, TAIL = 15, 0.02  # of the latent grid; probability of N(0, 1) beyond its edge
NUM_INPAINTINGS = 4  # of each image
GIBBS_STEPS, INIT_SAMPLES = 100, 200  # of inpainting; samples whose mean it starts from
MASK_GRAY = 110  # gray level of missing pixels


def to_uint8(x: Images) -> Pixels:
    """0..1 as 0..255, on the CPU."""
    return (x * 255).round().clamp(0, 255).byte().cpu()


@torch.no_grad()
def decode_images(model: Any, z: Float[Tensor, "count latent"]) -> Pixels:
    """The probability of each pixel, as images.

    Raises:
        NotFinite: one of them is NaN or infinite.
    """
    device = next(model.parameters()).device
    with eval_mode(model):
        parts = [model.decode(rows).sigmoid() for rows in z.to(device).split(500)]
    return to_uint8(check_finite(torch.cat(parts), "samples"))


def sample_images(model: Any, count: int, *, seed: int = 0, temperature: float = 1.0) -> Pixels:
    """`count` samples, from the noise of `seed`.

    Raises:
        NotFinite: one of them is NaN or infinite.
    """
    with eval_mode(model):
        return to_uint8(check_finite(model.sample(count, seed=seed, temperature=temperature), "samples"))


@torch.no_grad()
def encode(model: Any, x: Images) -> tuple[Tensor, Tensor]:
    """mean and logvar, in evaluation mode."""
    with eval_mode(model):
        return model.encode(x)


def save_reconstructions(model: Any, x: Images, file: str | Path, rows: int = 4) -> Path:
    """Images, and below each its reconstruction from the mean code."""
    x = x[: rows * COLUMNS]
    reconstructions = decode_images(model, encode(model, x)[0])
    pairs = zip(to_uint8(x).split(COLUMNS), reconstructions.split(COLUMNS), strict=True)
    return save_image_grid(torch.cat([row for pair in pairs for row in pair]), file, columns=COLUMNS)


def save_interpolations(model: Any, x: Images, file: str | Path) -> Path:
    """A row each: the straight line in latent space from one image's code to another's."""
    ends = encode(model, x[: 2 * NUM_PATHS])[0]
    first, last = ends[0::2], ends[1::2]
    z = latent_paths(first[: len(last)], last, COLUMNS)
    return save_image_grid(decode_images(model, z), file, columns=COLUMNS)


def save_latent_grid(model: Any, x: Images, file: str | Path) -> Path:
    """A plane of the latent space, spanned by the two latents with the largest KL on `x`: each over the range
    of N(0, 1) in steps of equal probability, the others 0 (Kingma and Welling 2013, figure 4)."""
    mean, logvar = encode(model, x[:2000])
    largest = kl_to_prior(mean, logvar).mean(0).argsort(descending=True)[:2].sort().values.cpu()
    steps = torch.special.ndtri(torch.linspace(TAIL, 1 - TAIL, GRID_SIDE, dtype=torch.float64)).float()
    z = torch.zeros(GRID_SIDE * GRID_SIDE, model.latent_dim)
    z[:, largest[-1]] = steps.flip(0).repeat_interleave(GRID_SIDE)
    z[:, largest[0]] = steps.repeat(GRID_SIDE)
    return save_image_grid(decode_images(model, z), file, columns=GRID_SIDE)


@torch.no_grad()
def inpaint(
    model: Any,
    x: Images,
    missing: Bool[Tensor, "#count #channel height width"],
    *,
    gibbs_steps: int = GIBBS_STEPS,
    seed: int = 0,
) -> Images:
    """`x` with its missing pixels sampled from p(missing | known) (Rezende et al. 2014, arXiv:1401.4082,
    appendix F).

    Code and missing pixels are sampled in turn, each given the other. The missing pixels start at their mean
    over samples of the model; the last step gives probabilities instead of binary pixels.
    """
    generator = torch.Generator().manual_seed(seed)

    def bernoulli(p: Tensor) -> Tensor:
        u = torch.rand(x.shape, generator=generator).to(x.device)
        return (u < p).to(x.dtype)

    with eval_mode(model):
        z = torch.randn(INIT_SAMPLES, model.latent_dim, generator=generator).to(x.device)
        p = check_finite(model.decode(z).sigmoid(), "images").mean(0)
        filled = torch.where(missing, bernoulli(p), x)
        for step in range(gibbs_steps):
            mean, logvar = model.encode(filled)
            epsilon = torch.randn(mean.shape, generator=generator).to(x.device)
            p = check_finite(model.decode(reparameterize(mean, logvar, epsilon)).sigmoid(), "images")
            filled = torch.where(missing, p if step == gibbs_steps - 1 else bernoulli(p), x)
    return filled


def save_inpaintings(model: Any, x: Images, file: str | Path, rows: int = 8) -> Path:
    """A row each: the known half of an image, several inpaintings of it, and the original."""
    x = x[:rows]
    missing = torch.zeros_like(x, dtype=torch.bool)
    side = x.shape[-1]
    missing[0::2, ..., side // 2 :] = True  # the right half, or the lower one
    missing[1::2, ..., side // 2 :, :] = True
    known = to_uint8(x).masked_fill(missing.cpu(), MASK_GRAY)
    inpaintings = [to_uint8(inpaint(model, x, missing, seed=seed)) for seed in range(NUM_INPAINTINGS)]
    images = torch.stack([known, *inpaintings, to_uint8(x)], 1).flatten(0, 1)
    return save_image_grid(images, file, columns=NUM_INPAINTINGS + 2)
