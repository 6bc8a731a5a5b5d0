"""Samples as pictures: sheets of many, one a look while training goes on, and their film at its end."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from torchstone.engine import parallel
from torchstone.engine.run import Metrics, Run
from torchstone.engine.signals import writing
from torchstone.errors import BadInput

Pixels = UInt8[Tensor, "count channel height width"]

GAP, BETWEEN = 2, 96  # pixels between pictures, and how light they are
LEAST = 48  # pixels a side; smaller pictures are shown enlarged
FRAMES = 60  # of a film, at most
SHOWN, LAST = 250, 2500  # milliseconds of each frame, and of the last one
FOLDER = "samples"  # of a run folder


def centred(metadata: dict[str, Any]) -> dict[str, Any]:
    """Image metadata for values from −1 to 1."""
    return metadata | {"mean": [0.5] * metadata["channels"], "std": [0.5] * metadata["channels"]}


def unit(metadata: dict[str, Any]) -> dict[str, Any]:
    """Image metadata for values from 0 to 1."""
    return metadata | {"mean": [0.0] * metadata["channels"], "std": [1.0] * metadata["channels"]}


def pixels(x: Float[Tensor, "count channel height width"], metadata: dict[str, Any]) -> Pixels:
    """Values as `metadata` normalises them, back to 0..255: what `streams.images.normalise` undoes."""
    shape = (1, len(metadata["mean"]), 1, 1)
    mean, std = (x.new_tensor(metadata[each]).view(shape) for each in ("mean", "std"))
    return ((x * std + mean) * 255).round().clamp(0, 255).byte()


def sheet(pictures: Pixels, file: str | Path, *, columns: int | None = None) -> Path:
    """Write `pictures` row by row into one PNG, small ones enlarged by a whole factor.

    Args:
        columns: pictures a row; by default as many as make the sheet square, or a little wider.

    Returns:
        The file.

    Raises:
        BadInput: no pictures, not one or three channels, or another ending than `.png`.
    """
    file = Path(file)
    if file.suffix.lower() != ".png":
        raise BadInput(f"a sheet is written to a file that ends in .png, not {file.name!r}")
    image = laid(pictures, columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    return file


def laid(pictures: Pixels, columns: int | None = None) -> Image.Image:
    """The sheet itself."""
    count, channels, height, width = pictures.shape
    if not count or channels not in (1, 3):
        raise BadInput(f"a sheet shows pictures of 1 or 3 channels, not {tuple(pictures.shape)}")
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows, by = math.ceil(count / columns), math.ceil(LEAST / max(height, width))
    large = pictures.cpu().numpy().repeat(by, 2).repeat(by, 3)
    down, right = height * by + GAP, width * by + GAP
    whole = np.full((rows * down + GAP, columns * right + GAP, channels), BETWEEN, np.uint8)
    for number, picture in enumerate(large):
        row, column = divmod(number, columns)
        top, left = row * down + GAP, column * right + GAP
        whole[top : top + height * by, left : left + width * by] = picture.transpose(1, 2, 0)
    return Image.fromarray(whole[..., 0] if channels == 1 else whole)


def watched(run: Run, draw: Callable[[], Pixels], *, columns: int | None = None) -> Run:
    """`run`, which from now on draws a sheet into its folder each time it is evaluated, and at its end
    `samples.png` and a film of all of them, `samples.gif`.

    The sheets are `samples/STEP.png`; a run that was killed draws again those after its checkpoint.

    Args:
        draw: the pictures, from noise that is the same every time.
    """
    evaluate, report = run.evaluate, run.report

    def looking() -> Metrics:
        numbers = evaluate()
        if run.folder is not None and parallel.rank() == 0:
            step = run.state["lr_schedule"].last_epoch  # ty: ignore[missing-attribute]
            with writing(run.folder, step):
                sheet(draw(), run.folder / FOLDER / f"{step:06d}.png", columns=columns)
        return numbers

    def reporting(pictures: Path) -> None:
        if report is not None:
            report(pictures)
        sheet(draw(), pictures / "samples.png", columns=columns)
        film(pictures.parent / FOLDER, pictures / "samples.gif")

    run.evaluate, run.report = looking, reporting
    return run


def film(sheets: Path, file: Path) -> None:
    """The PNGs of a folder in order of their names, as one GIF; of very many, some evenly."""
    names = sorted(sheets.glob("*.png"))
    if not names:
        return
    count = min(len(names), FRAMES)
    spread = np.linspace(0, len(names) - 1, count).round().astype(int)
    frames = []
    for place in spread:
        with Image.open(names[place]) as opened:
            frames.append(opened.copy())
    times = [SHOWN] * (count - 1) + [LAST]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=times, loop=0)
