"""Color operations, each with its own amount per image: `images` on 0..255, `amount` (batch,).

The formulas are those of Pillow's ImageEnhance and ImageOps, which the papers used. An operation that
maps each level to a level, wherever the pixel is, becomes a table of 256 entries per channel that is
looked up once.
"""

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from torchstone.data.vision.geometric_ops import Augmentation, Draw, Images

Amount = Float[Tensor, " batch"]
Table = UInt8[Tensor, "batch channel 256"]
LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601


def grayscale(images: Images) -> Float[Tensor, "batch 1 height width"]:
    """Brightness of each pixel, in integer levels where `images` has them."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().split(1, 1)
    gray = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return gray if images.is_floating_point() else gray.floor_()


def mean_gray(images: Images) -> Amount:
    """Mean brightness; summed in integer 1/16 levels, so that a share of a batch gives the same."""
    gray = grayscale(images).flatten(1).mul(16).round_().long()
    return (gray.sum(1).double() / (16 * gray.shape[1])).float()


def blend(
    images: Shaped[Tensor, "batch *rest"], others: Tensor, amount: Amount
) -> Shaped[Tensor, "batch *rest"]:
    """`amount` · `images` + (1 - `amount`) · `others`; above 1 it extrapolates. Keeps the dtype."""
    amount = amount.view(-1, *[1] * (images.ndim - 1))
    # from `others` outwards, so that where both are equal nothing is rounded
    mixed = (images - others).mul_(amount).add_(others).clamp_(0, 255)
    return mixed.to(images.dtype)


def saturate(images: Images, amount: Amount) -> Images:
    """0 is gray, 1 leaves the image; grayscale images stay."""
    return images if images.shape[1] == 1 else blend(images, grayscale(images), amount)


def sharpen(images: Images, amount: Amount) -> Images:
    """0 smooths by (1 1 1, 1 5 1, 1 1 1)/13, 1 leaves the image; the outermost pixels stay."""
    if min(images.shape[2:]) < 3:
        return images
    pixels = images.float()
    inner = pixels[:, :, 1:-1, 1:-1]
    smooth = functional.avg_pool2d(pixels, 3, 1, divisor_override=1).add_(inner, alpha=4).div_(13)
    if not images.is_floating_point():
        smooth.round_()
    sharpened = images.clone()
    sharpened[:, :, 1:-1, 1:-1] = blend(images[:, :, 1:-1, 1:-1], smooth, amount)
    return sharpened


def apply_table(images: UInt8[Tensor, "batch channel height width"], table: Table) -> Images:
    """Each pixel replaced by its level's entry."""
    rows = table.shape[0] * table.shape[1]
    starts = torch.arange(0, 256 * rows, 256, device=images.device, dtype=torch.int32)
    indices = images.view(rows, -1) + starts[:, None]
    return table.flatten().index_select(0, indices.flatten()).view_as(images)


def gray_levels(like: Tensor) -> Float[Tensor, "256"]:
    return torch.arange(256, device=like.device, dtype=torch.float32)


def brightness(images: Images, amount: Amount) -> Table:
    """0 is black, 1 leaves the image."""
    return _as_table((amount[:, None] * gray_levels(images)).clamp_(0, 255), images)


def contrast(images: Images, amount: Amount) -> Table:
    """0 is the mean brightness everywhere, 1 leaves the image."""
    table = blend(gray_levels(images).expand(len(images), -1), mean_gray(images)[:, None], amount)
    return _as_table(table, images)


def posterize(images: Images, bits: Amount) -> Table:
    """Only the highest `bits` of 8 remain."""
    step = torch.exp2(8 - bits)[:, None]
    return _as_table((gray_levels(images) / step).floor_() * step, images)


def solarize(images: Images, threshold: Amount) -> Table:
    """Levels from `threshold` on are inverted."""
    levels = gray_levels(images).expand(len(images), -1)
    return _as_table(torch.where(levels >= threshold[:, None], 255 - levels, levels), images)


def autocontrast(images: Images, amount: Amount | None = None) -> Table:
    """Each channel's darkest level becomes 0 and its brightest 255."""
    low, high = (each.float()[..., None] for each in images.flatten(2).aminmax(dim=2))
    stretched = ((gray_levels(images) - low) * 255 / (high - low).clamp(min=1)).clamp_(0, 255)
    return torch.where(high > low, stretched, gray_levels(images)).to(torch.uint8)


def equalize(images: Images, amount: Amount | None = None) -> Table:
    """Histogram equalization: each channel's levels become about equally frequent.

    A level becomes the number of pixels below it, over the number that one of 255 steps would hold
    if the brightest level's are left out.
    """
    rows = images.flatten(0, 1).flatten(1).long()
    counts = torch.zeros(len(rows), 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, rows, torch.ones_like(rows))
    brightest = counts.gather(1, rows.amax(1, keepdim=True))
    step = (rows.shape[1] - brightest) // 255
    below = counts.cumsum(1) - counts
    table = (below + step // 2) // step.clamp(min=1)
    table = torch.where(step > 0, table.clamp(max=255), torch.arange(256, device=images.device))
    return table.to(torch.uint8).view(*images.shape[:2], 256)


def _as_table(table: Tensor, images: Images) -> Table:
    """One table per image, for each of its channels."""
    return table.to(torch.uint8)[:, None].expand(-1, images.shape[1], -1)


def rotate_hue(images: Images, turns: Amount) -> Images:
    """Hue rotated by `turns` of the color circle; grayscale images stay. Float images."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - low
    divisor = chroma.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * turns.view(-1, 1, 1, 1)
    # red, green and blue as one function of the phase, a third of a turn apart
    phase = (hue + torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)) % 6
    return value - chroma * torch.minimum(phase, 4 - phase).clamp_(0, 1)


def jitter(strength: float, hue: float) -> Augmentation:
    """Color jitter: brightness, contrast and saturation each by a factor between 1 - `strength` and
    1 + `strength`, then the hue by up to ±`hue` of a turn; in this order. Returns float images (0..255)."""

    def apply(images: Images, draw: Draw) -> Images:
        *factors, turns = (2 * draw(4) - 1).unbind(1)
        light, sharp, color = (1 + strength * each for each in factors)
        images = (images * light.view(-1, 1, 1, 1)).clamp_(0, 255)
        images = blend(images, mean_gray(images).view(-1, 1, 1, 1), sharp)
        images = saturate(images, color)
        return rotate_hue(images, turns * hue) if hue else images

    return apply
