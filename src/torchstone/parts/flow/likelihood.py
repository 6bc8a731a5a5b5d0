"""Likelihoods of images and points: dequantization, bits per dimension, and two density baselines.

Pixel values are integers, on which a density could be arbitrarily high. Uniform noise that fills the gap
between a value and the next prevents that (Uria, Murray and Larochelle 2013, arXiv:1306.0186). The log
density is then a lower bound on the log probability of the integer itself (Theis, van den Oord and
Bethge 2015, arXiv:1511.01844, section 3.1):

    y = (k + u) / levels,  u uniform on 0..1      log P(k) ≥ E_u log p(y) − dimensions · log levels

A flow models unbounded numbers: logit(α + (1 − 2 α) y) (Dinh et al. 2016, arXiv:1605.08803, section 4.1,
where 1 − α is written; the code published with it has 1 − 2 α).

Baselines: a histogram of each pixel for images, kernel density estimation for points.
"""

import math

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

ALPHA = 0.05
CHUNK_SIZE = 500  # points whose kernel distances are in memory at a time

Images = Shaped[Tensor, "batch channel height width"]
RealImages = Float[Tensor, "batch channel height width"]
PerImage = Float[Tensor, " batch"]


def quantize(images: Images, levels: int = 256) -> Float[Tensor, "batch channel height width"]:
    """Integer pixels 0 to 255, of any dtype, as 0 to `levels` − 1: in steps of 256 / levels."""
    return (images.float() * levels / 256).floor()


def to_uint8(y: RealImages, levels: int = 256) -> UInt8[Tensor, "batch channel height width"]:
    """Images of so many levels from values on 0..1 (clamped): the inverse of `dequantize`."""
    k = (y * levels).floor().clamp(0, levels - 1)
    return (k * (255 / (levels - 1))).round().byte()


def dequantize(images: Images, u: RealImages, levels: int = 256) -> RealImages:
    """y, from 0 to 1.

    Args:
        images: integers from 0 to 255, of any dtype.
        u: uniform noise on 0..1, of their shape.
    """
    return (quantize(images, levels) + u) / levels


def logit(y: RealImages, alpha: float = ALPHA) -> tuple[RealImages, PerImage]:
    """From 0..1 to unbounded numbers, with log |det| of that map."""
    p = alpha + (1 - 2 * alpha) * y
    log_det = math.log(1 - 2 * alpha) - p.log() - (1 - p).log()
    return p.log() - (1 - p).log(), log_det.flatten(1).sum(1)


def inverse_logit(x: RealImages, alpha: float = ALPHA) -> tuple[RealImages, PerImage]:
    """The inverse of `logit`, with its own log |det|; y lies between −α / (1 − 2 α) and 1 + α / (1 − 2 α)."""
    p = torch.sigmoid(x)
    log_det = torch.nn.functional.logsigmoid(x) + torch.nn.functional.logsigmoid(-x)
    return (p - alpha) / (1 - 2 * alpha), (log_det - math.log(1 - 2 * alpha)).flatten(1).sum(1)


def bits_per_dim(log_density: PerImage, dimensions: int, levels: int = 256) -> PerImage:
    """Bits per dimension of a code by this density of y.

    Args:
        log_density: log p(y) of each image in nats, y from 0 to 1.
    """
    return (math.log(levels) - log_density / dimensions) / math.log(2)


def pixel_histogram(
    images: Images, levels: int = 256, prior_count: float = 1.0
) -> Float[Tensor, "levels channel height width"]:
    """log probability of each level at each pixel, pixels independent: a baseline that ignores structure.

    Args:
        prior_count: added to the count of each level (Laplace smoothing), so that none is impossible.
    """
    k = quantize(images, levels).long()
    counts = torch.full((levels, *k.shape[1:]), prior_count, dtype=torch.float64, device=k.device)
    counts.scatter_add_(0, k, torch.ones_like(k, dtype=torch.float64))
    return (counts / counts.sum(0)).log()


def histogram_bits_per_dim(table: Float[Tensor, "levels channel height width"], images: Images) -> PerImage:
    """Bits per dimension under a `pixel_histogram`."""
    log_prob = table.gather(0, quantize(images, len(table)).long())
    return -log_prob.flatten(1).mean(1) / math.log(2)


def log_kernel_density(
    x: Float[Tensor, "count numbers"], points: Float[Tensor, "others numbers"], bandwidth: float
) -> Float[Tensor, " count"]:
    """log (1/n) Σ N(x; point, bandwidth² I): kernel density estimation, in nats.

    Rosenblatt 1956, Parzen 1962.
    """
    scaled, numbers = points / bandwidth, x.shape[1]
    constant = numbers * math.log(bandwidth * math.sqrt(2 * math.pi)) + math.log(len(points))
    parts = [
        torch.logsumexp(-0.5 * torch.cdist(rows / bandwidth, scaled).square(), 1)
        for rows in x.split(CHUNK_SIZE)
    ]
    return torch.cat(parts) - constant
