"""What all pictures share: an empty figure, a frame around data, text and colours.

They are drawn through matplotlib's objects, never through `pyplot`: no global state, nothing left
open, safe in a thread.
"""

import math
import re
import textwrap
import warnings
from pathlib import Path

import numpy as np

from torchstone.engine.console import notify

DPI = 110
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B38600", "#56B4E9", "#7F4FC9", "#555555")
LEGEND = {"frameon": False, "fontsize": 8, "borderaxespad": 0.2, "handlelength": 1.6, "columnspacing": 1.2}


def canvas(width: float, height: float, layout="constrained"):
    """An empty figure of `width` x `height` inches that draws into memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def whole_axes(figure):
    """Invisible axes over the whole figure, in inches from its lower left corner.

    Dozens of images in one pair of axes are drawn in a fraction of the time of dozens of axes.
    """
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(0, figure.get_figheight()), autoscale_on=False)
    return axes


def place_image(
    axes, pixels: np.ndarray, box: tuple[float, float, float, float], *, centered: bool = True, **scale
) -> None:
    """Shows `pixels` of equal sides as large as they fit into the box (left, bottom, width, height)."""
    left, bottom, width, height = box
    size = min(width / pixels.shape[1], height / pixels.shape[0])
    x = left + (width - size * pixels.shape[1]) / 2 if centered else left
    y = bottom + (height - size * pixels.shape[0]) / 2
    extent = (x, x + size * pixels.shape[1], y, y + size * pixels.shape[0])
    axes.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest", **scale)


def save(figure, file: str | Path) -> None:
    """Writes the picture, its folder too where there is none."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if file.suffix == ".png":
            # `savefig` draws twice where there is a layout to be found, the first time to find it, which
            # drawing does anyway; zlib's higher levels take longer than the drawing, and save a tenth
            figure.canvas.print_png(file, pil_kwargs={"compress_level": 1})
        else:
            figure.savefig(file, dpi=DPI, facecolor="white")
    missing: dict[str, None] = {}
    for each in caught:
        if glyph := re.match(r"Glyph (\d+) .* missing from", str(each.message)):
            sign = chr(int(glyph[1]))
            missing[sign if sign.isprintable() else f"U+{ord(sign):04X}"] = None
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if missing:  # one line, where matplotlib writes two for each
        shown = " ".join(list(missing)[:10]) + " …" * (len(missing) > 10)
        notify(f"{file.name}: the font has no {shown}, which are boxes in the picture")


def percent(share: float, decimals: int = 1) -> str:
    """A share as text, `99.9%`: never 100 % nor 0 % unless it is exactly that."""
    least = 10.0**-decimals
    shown = round(100 * share, decimals)
    if 0 < share < 1:
        shown = min(max(shown, least), 100 - least)
    return f"{shown:.{decimals}f}%"


def plain(text: str, most: int = 40) -> str:
    """Text as it stands: matplotlib reads `$` as mathematics, hides labels that begin with `_`, and has no
    sign for control characters."""
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    text = text if len(text) <= most else text[: most - 1] + "…"
    text = text.replace("$", r"\$")
    return " " + text if text.startswith("_") else text


def frame(axes, title: str) -> None:
    """Title, grid and ticks of a panel; a long title takes two lines."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    lines = textwrap.wrap(title, 44, max_lines=2, placeholder=" …")
    axes.set_title("\n".join(plain(line, 44) for line in lines), loc="left", fontsize=10, fontweight="bold")
    axes.tick_params(labelsize=8)
    axes.tick_params(which="minor", labelsize=8)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving mean over about `width` points: it does not lag behind what it smooths.

    Towards an end the window shrinks on both sides alike (a slope keeps its place), but to a third
    at most (the last points are not bare noise).
    """
    half, index, last = width // 2, np.arange(len(values)), len(values) - 1
    half = np.clip(np.minimum(index, last - index), half // 3, half)
    first, last = np.maximum(index - half, 0), np.minimum(index + half, last)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=float)])
    return (total[last + 1] - total[first]) / (last + 1 - first)


def decades(values: list[float]) -> float:
    return math.log10(max(values) / min(values)) if min(values) > 0 else 0.0
