"""Use of a style-based generator: truncated samples, films, sheets of mixed styles, projection."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.preprocess import load_upright, preprocess
from torchstone.engine.console import track
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.gan.truncated_normal import check_truncation
from torchstone.parts.modes import eval_mode
from torchstone.plots.sample_grid import MIN_SIDE, save_image_grid, to_uint8
from torchstone.tasks.gan.inference import cycle_labels, grid_columns
from torchstone.tasks.inference import class_index, list_files

CHUNK_PIXELS = 2**18  # of the images that are generated at a time
NUM_SAMPLES = {64: 64, 256: 16}  # by default, up to sides of so many pixels; 4 of larger ones
NUM_FILM, FRAMES_BETWEEN, FRAME_MS = 8, 12, 80  # images that a film passes, frames between two of them
NUM_MIXED = 6  # rows and columns of a sheet of mixed styles
# projection (Karras et al. 2020, section 5 and appendix D), but with distances of pixels, not of features
PROJECTION_STEPS, PROJECTION_LR, NUM_MEAN = 300, 0.1, 1000
STYLE_NOISE = 0.05  # of the deviation of styles, at the beginning
SCALES = (1, 2, 4, 8)  # by which images are averaged before they are compared

Styles = Float[Tensor, "count layers style"]
StyleRows = Float[Tensor, "rows layers style"]
Pixels = UInt8[Tensor, "count channel height width"]


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    num_samples: int | None = None,
    seed: int = 0,
    label: str | int | None = None,
    truncation: float = 1.0,
    mix_styles: str | None = None,
    out: str | Path | None = None,
) -> list:
    """Images, uint8 (channel, height, width), or the name of the file that they were written to.

    Args:
        num_samples: by default as many as fit on a sheet; of a film those that it passes.
        label: name of a class; without one each class in turn.
        truncation: ψ; styles are drawn towards their mean, at 0 all images are the same.
        mix_styles: `FIRST-LAST`, layers from 0 on: a sheet of images in the first column, in which these
            layers have the styles of those in the first row.
        out: `.png` for a grid, `.gif` for a film along straight lines between styles.

    Raises:
        BadInput: a number out of range, an unknown label, layers that there are not.
        NotFinite: an image has a number that is NaN or infinite.
    """
    check_truncation(truncation)
    is_film = out is not None and str(out).lower().endswith(".gif")
    if is_film and mix_styles is not None:
        raise BadInput("mixed styles are a sheet: give --out FILE.png")
    if num_samples is None:
        num_samples = 2 * NUM_MIXED if mix_styles else NUM_FILM if is_film else default_count(model.size)
    if num_samples < 1 + (is_film or mix_styles is not None):
        raise BadInput(f"{num_samples} samples are too few: give more with -n")
    columns = grid_columns(model) if label is None else None
    styles = draw_styles(model, metadata, num_samples, seed, label, truncation)
    if mix_styles is not None:
        layers = parse_layers(mix_styles, model.num_styles)
        styles, columns = mixed_sheet(styles, layers)
    if is_film:
        styles = film_path(styles)
    images = images_of_styles(model, styles, metadata["picture"])
    if mix_styles is not None:
        images = torch.cat([torch.full_like(images[:1], 255), images])
    if out is None:
        return list(images)
    return [str(save_film(images, Path(out)) if is_film else save_image_grid(images, out, columns=columns))]


def default_count(size: int) -> int:
    return next((count for side, count in NUM_SAMPLES.items() if size <= side), 4)


@torch.no_grad()
def draw_styles(
    model: Any,
    metadata: dict[str, Any],
    count: int,
    seed: int,
    label: str | int | None = None,
    truncation: float = 1.0,
) -> Styles:
    """Styles of `count` latents, the same that `sample_images` draws from `seed`.

    Raises:
        BadInput: an unknown label, or one for a generator without labels.
    """
    z = torch.randn(count, model.latent_dim, generator=torch.Generator().manual_seed(seed))
    labels, device = cycle_labels(model, count), next(model.parameters()).device
    if label is not None:
        if labels is None:
            raise BadInput(f"a {metadata['variant']} takes no label: it was trained without classes")
        labels = torch.full((count,), class_index(label, metadata["classes"]))
    with eval_mode(model):
        return model.styles(z.to(device), None if labels is None else labels.to(device), truncation)


@torch.no_grad()
def images_of_styles(model: Any, styles: Styles, metadata: dict[str, Any]) -> Pixels:
    """Images with the network's own noise, on the CPU."""
    chunks = styles.split(max(1, CHUNK_PIXELS // model.size**2))
    parts = []
    with eval_mode(model):
        for chunk in track(chunks, "sampling, batch", len(chunks)):
            images = model.synthesize(chunk)
            if not torch.isfinite(images).all():
                raise NotFinite("the generator's images are not finite: its weights are broken")
            parts.append(to_uint8(images, metadata).cpu())
    return torch.cat(parts)


def parse_layers(text: str, num_styles: int) -> slice:
    """Layers from `FIRST-LAST`, or of a single number.

    Raises:
        BadInput: no such layers.
    """
    first, _, last = text.partition("-")
    numbers = [each for each in (first, last or first) if each.isdecimal()]
    if len(numbers) < 2 or not 0 <= int(first) <= int(numbers[1]) < num_styles:
        raise BadInput(
            f"mix_styles is FIRST-LAST, layers from 0 (coarse) to {num_styles - 1} (fine), not {text!r}"
        )
    return slice(int(first), int(numbers[1]) + 1)


def mixed_sheet(styles: Styles, layers: slice) -> tuple[StyleRows, int]:
    """Styles of a sheet without its first cell, and its columns: in the first row one half, in the first
    column the other, elsewhere those of the row with `layers` of the column."""
    donors, bases = styles.tensor_split(2)
    rows = [donors]
    for base in bases:
        mixed = base.expand(len(donors), -1, -1).clone()
        mixed[:, layers] = donors[:, layers]
        rows.append(torch.cat([base[None], mixed]))
    return torch.cat(rows), 1 + len(donors)


def film_path(styles: Styles) -> StyleRows:
    """Straight lines from each style to the next, and from the last to the first."""
    weight = torch.arange(FRAMES_BETWEEN, device=styles.device) / FRAMES_BETWEEN
    after = styles.roll(-1, 0)
    return torch.lerp(styles[:, None], after[:, None], weight[None, :, None, None]).flatten(0, 1)


def save_film(images: Pixels, file: Path) -> Path:
    """Write frames as a GIF without end, small ones enlarged by an integer factor."""
    factor = -(-2 * MIN_SIDE // images.shape[-1])
    arrays = images.numpy().repeat(factor, 2).repeat(factor, 3)
    frames = [
        Image.fromarray(a[0] if len(a) == 1 else np.ascontiguousarray(a.transpose(1, 2, 0))) for a in arrays
    ]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    return file


def predict(
    model: Any,
    metadata: dict[str, Any],
    inputs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    projection_steps: int = PROJECTION_STEPS,
) -> list[dict[str, Any]]:
    """The projection of images into W: the image nearest to each that one style makes, and how near it is.

    Args:
        out: a `.png`: each image above its projection; by default `NAME-projected.png` of the first one.

    Raises:
        BadInput: an image that is missing, or of another size than the generator's.
    """
    files = list_files(list(inputs))
    picture = metadata["picture"]
    for file in files:
        image, _ = load_upright(file, picture["channels"], picture.get("levels"))
        if image.size != (model.size, model.size):
            width, height = image.size
            raise BadInput(
                f"{file} is {width}×{height}, but the generator makes {model.size}×{model.size}: resize it"
            )
    pixels = torch.cat([preprocess(file, picture) for file in files])
    if out is not None and not str(out).lower().endswith(".png"):
        raise BadInput(f"a projection is written to a file that ends in .png, not {str(out)!r}")
    target = normalize(pixels.to(next(model.parameters()).device).float(), picture)
    styles = project(model, target, projection_steps)
    images = images_of_styles(model, styles, picture)
    sheet = save_image_grid(
        torch.cat([pixels.cpu(), images]),
        f"{files[0].stem}-projected.png" if out is None else out,
        columns=len(files),
    )
    errors = (images.double() - pixels.cpu().double()).div(255).square().flatten(1).mean(1).sqrt().tolist()
    center = images_of_styles(model, model_mean(model), picture)
    before = (center.double() - pixels.cpu().double()).div(255).square().flatten(1).mean(1).sqrt().tolist()
    return [
        {
            "input": str(file),
            "text": f"projected into W: {error:.3f} of the gray scale off (the mean image is {mean:.3f} off)",
            "error_rms": error,
            "mean_error_rms": mean,
            "styles": style[0].tolist(),
            "file": str(sheet),
        }
        for file, error, mean, style in zip(files, errors, before, styles.cpu(), strict=True)
    ]


def model_mean(model: Any) -> Styles:
    """The mean style in each layer."""
    return model.mapping.average.expand(1, model.num_styles, -1)


def project(model: Any, target: Float[Tensor, "count channel size size"], steps: int) -> Styles:
    """Styles whose images are near `target`, on several scales, by Adam from the mean style on; noise on the
    style, which fades, keeps it from the nearest bad minimum."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(NUM_MEAN, model.latent_dim, generator=generator).to(target.device)
    with eval_mode(model):
        with torch.no_grad():
            deviation = (model.mapping(latents) - model.mapping.average).square().sum(1).mean().sqrt()
        w = model.mapping.average.expand(len(target), -1).clone().requires_grad_()
        optimizer = torch.optim.Adam([w], PROJECTION_LR)
        for step in track(range(steps), "projecting, step", steps):
            t = step / steps
            optimizer.param_groups[0]["lr"] = PROJECTION_LR * min(1.0, t / 0.05 + 0.01, (1 - t) / 0.25)
            noise = torch.randn(w.shape, generator=generator).to(w)
            noisy = w + noise * deviation * (STYLE_NOISE * max(0.0, 1 - t / 0.75) ** 2)
            images = model.synthesize(noisy[:, None].expand(-1, model.num_styles, -1))
            loss = torch.stack(
                [F.avg_pool2d(images - target, scale).square().flatten(1).mean(1) for scale in SCALES]
            ).sum()
            (w.grad,) = torch.autograd.grad(loss, [w])
            optimizer.step()
    return w.detach()[:, None].expand(-1, model.num_styles, -1)
