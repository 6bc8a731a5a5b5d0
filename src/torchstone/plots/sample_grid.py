"""Grids of samples: one after each evaluation of a run, and at its end an animation of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.engine.signals import writing
from torchstone.errors import BadInput
from torchstone.parts.indices import evenly_spaced

Pixels = UInt8[Tensor, "count channel height width"]

GAP, BACKGROUND = 2, 96  # pixels between images, and their gray level
MIN_SIDE = 48  # pixels; smaller images are enlarged
MAX_FRAMES = 60  # of an animation
FRAME_MS, LAST_FRAME_MS = 250, 2500  # duration of each frame, and of the last one
FOLDER = "samples"  # of a run folder


def symmetric_range(metadata: dict[str, Any]) -> dict[str, Any]:
    """Image metadata that normalizes to −1..1."""
    return metadata | {"mean": [0.5] * metadata["channels"], "std": [0.5] * metadata["channels"]}


def unit_range(metadata: dict[str, Any]) -> dict[str, Any]:
    """Image metadata that normalizes to 0..1."""
    return metadata | {"mean": [0.0] * metadata["channels"], "std": [1.0] * metadata["channels"]}


def to_uint8(x: Float[Tensor, "count channel height width"], metadata: dict[str, Any]) -> Pixels:
    """Undo the normalization by `metadata`: values back to 0..255."""
    shape = (1, len(metadata["mean"]), 1, 1)
    mean, std = (x.new_tensor(metadata[each]).view(shape) for each in ("mean", "std"))
    return ((x * std + mean) * 255).round().clamp(0, 255).byte()


def save_image_grid(images: Pixels, file: str | Path, *, columns: int | None = None) -> Path:
    """Write images row by row into one PNG, small ones enlarged by an integer factor.

    Args:
        columns: images a row; by default as many as make the grid square, or a little wider.

    Returns:
        The file.

    Raises:
        BadInput: no images, not one or three channels, or another suffix than `.png`.
    """
    file = Path(file)
    if file.suffix.lower() != ".png":
        raise BadInput(f"an image grid is written to a file that ends in .png, not {file.name!r}")
    grid = image_grid(images, columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    grid.save(file)
    return file


def image_grid(images: Pixels, columns: int | None = None) -> Image.Image:
    """The grid itself."""
    count, channels, height, width = images.shape
    if not count or channels not in (1, 3):
        raise BadInput(f"an image grid shows images of 1 or 3 channels, not {tuple(images.shape)}")
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows, factor = math.ceil(count / columns), math.ceil(MIN_SIDE / max(height, width))
    large = images.cpu().numpy().repeat(factor, 2).repeat(factor, 3)
    height, width = height * factor, width * factor
    shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels)
    grid = np.full(shape, BACKGROUND, np.uint8)
    for number, image in enumerate(large):
        row, column = divmod(number, columns)
        top, left = row * (height + GAP) + GAP, column * (width + GAP) + GAP
        grid[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return Image.fromarray(grid[..., 0] if channels == 1 else grid)


def log_samples(run: Run, sample: Callable[[], Pixels], *, columns: int | None = None) -> Run:
    """Let `run` write a grid of samples into its folder, `samples/STEP.png`, after each evaluation.

    A run that was killed writes those after its checkpoint again.

    Args:
        sample: generates them, from the same noise every time.
    """

    def save() -> None:
        if run.folder is not None and parallel.rank() == 0:
            step = run.state["lr_schedule"].last_epoch  # ty: ignore[missing-attribute]
            with writing(run.folder, step):
                save_image_grid(sample(), run.folder / FOLDER / f"{step:06d}.png", columns=columns)

    run.on_evaluate.append(save)
    return run


def save_final_samples(images: Pixels, folder: Path, *, columns: int | None = None) -> None:
    """`samples.png`, and `samples.gif` of the grids that `log_samples` wrote; part of a run's report."""
    save_image_grid(images, folder / "samples.png", columns=columns)
    save_animation(folder.parent / FOLDER, folder / "samples.gif")


def save_animation(folder: Path, file: Path) -> None:
    """The PNGs of a folder in order of their names, as one GIF; an evenly spaced subset of very many."""
    names = sorted(folder.glob("*.png"))
    if not names:
        return
    frames = []
    for index in evenly_spaced(len(names), MAX_FRAMES).tolist():
        with Image.open(names[index]) as image:
            frames.append(image.copy())
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=0)
