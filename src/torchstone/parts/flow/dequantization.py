"""Pictures as real numbers with a density, and densities as bits per dimension.

A picture's values are whole numbers; a density could pile up on them without end. Noise that fills the
gap between a value and the next prevents that (Uria, Murray and Larochelle 2013, arXiv:1306.0186), and
then the density's logarithm is at most that of the value's own probability (Theis, van den Oord and
Bethge 2015, arXiv:1511.01844, section 3.1):

    y = (k + u) / levels,  u uniform on 0..1      log P(k) ≥ E_u log p(y) − dimensions · log levels

A flow is made for numbers without bounds: logit(α + (1 − 2 α) y) has none (Dinh et al. 2016,
arXiv:1605.08803, section 4.1, where 1 − α is written; the code published with it has 1 − 2 α).
"""

import math

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

ALPHA = 0.05

Pictures = Shaped[Tensor, "batch channel height width"]
Reals = Float[Tensor, "batch channel height width"]
Each = Float[Tensor, " batch"]


def grades(pictures: Pictures, levels: int = 256) -> Float[Tensor, "batch channel height width"]:
    """Values 0 to 255, whole numbers of any type, as 0 to `levels` − 1: in steps of 256 / levels."""
    return (pictures.float() * levels / 256).floor()


def shades(y: Reals, levels: int = 256) -> UInt8[Tensor, "batch channel height width"]:
    """Values 0..1 (others are cut off) as pictures of so many levels: what undoes `dequantise`."""
    k = (y * levels).floor().clamp(0, levels - 1)
    return (k * (255 / (levels - 1))).round().byte()


def dequantise(pictures: Pictures, u: Reals, levels: int = 256) -> Reals:
    """y, from 0 to 1.

    Args:
        pictures: whole numbers from 0 to 255, of any type.
        u: uniform on 0..1, of their shape.
    """
    return (grades(pictures, levels) + u) / levels


def logit(y: Reals, alpha: float = ALPHA) -> tuple[Reals, Each]:
    """From 0..1 to numbers without bounds, and log |det| of that."""
    p = alpha + (1 - 2 * alpha) * y
    slope = math.log(1 - 2 * alpha) - p.log() - (1 - p).log()
    return p.log() - (1 - p).log(), slope.flatten(1).sum(1)


def unlogit(x: Reals, alpha: float = ALPHA) -> tuple[Reals, Each]:
    """Back again, and log |det| of the way back; y is from −α / (1 − 2 α) to as much above 1."""
    p = torch.sigmoid(x)
    slope = torch.nn.functional.logsigmoid(x) + torch.nn.functional.logsigmoid(-x)
    return (p - alpha) / (1 - 2 * alpha), (slope - math.log(1 - 2 * alpha)).flatten(1).sum(1)


def bits(log_density: Each, dimensions: int, levels: int = 256) -> Each:
    """Bits a dimension that a code by this density of y takes.

    Args:
        log_density: log p(y) of each picture, in nats, y from 0 to 1.
    """
    return (math.log(levels) - log_density / dimensions) / math.log(2)


def histogram(
    pictures: Pictures, levels: int = 256, seen: float = 1.0
) -> Float[Tensor, "levels channel height width"]:
    """log probability of each level at each pixel, every pixel by itself: the baseline of no picture at all.

    Args:
        seen: how often each level counts as seen beforehand (Laplace), so that none is impossible.
    """
    k = grades(pictures, levels).long()
    counts = torch.full((levels, *k.shape[1:]), seen, dtype=torch.float64, device=k.device)
    counts.scatter_add_(0, k, torch.ones_like(k, dtype=torch.float64))
    return (counts / counts.sum(0)).log()


def histogram_bits(table: Float[Tensor, "levels channel height width"], pictures: Pictures) -> Each:
    """Bits a dimension by a `histogram`."""
    told = table.gather(0, grades(pictures, len(table)).long())
    return -told.flatten(1).mean(1) / math.log(2)
