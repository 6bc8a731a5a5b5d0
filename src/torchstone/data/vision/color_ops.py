"""Changes of colour, each by its own amount a picture: `images` 0..255, one number a picture beside.

Formulas are those of Pillow's ImageEnhance and ImageOps, which the papers used. What maps each level
to a level whatever its place is made as a table of 256 entries a channel and looked up once.
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
    """Brightness of each pixel, in whole levels where `images` has them."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().split(1, 1)
    light = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return light if images.is_floating_point() else light.floor_()


def mean_gray(images: Images) -> Amount:
    """Mean brightness; summed in whole 1/16 levels, so that a share of a batch gives the same."""
    light = grayscale(images).flatten(1).mul(16).round_().long()
    return (light.sum(1).double() / (16 * light.shape[1])).float()


def blend(
    images: Shaped[Tensor, "batch *rest"], others: Tensor, amount: Amount
) -> Shaped[Tensor, "batch *rest"]:
    """`amount` of `images` and 1 - `amount` of `others`; beyond 1 away from them. Keeps the type."""
    amount = amount.view(-1, *[1] * (images.ndim - 1))
    # from `others` outwards, so that where both are alike nothing is rounded
    mixed = (images - others).mul_(amount).add_(others).clamp_(0, 255)
    return mixed.to(images.dtype)


def saturate(images: Images, amount: Amount) -> Images:
    """0 is grey, 1 as it was; pictures that are grey stay."""
    return images if images.shape[1] == 1 else blend(images, grayscale(images), amount)


def sharpen(images: Images, amount: Amount) -> Images:
    """0 smooths by (1 1 1, 1 5 1, 1 1 1)/13, 1 as it was; the outermost pixels stay."""
    if min(images.shape[2:]) < 3:
        return images
    whole = images.float()
    inner = whole[:, :, 1:-1, 1:-1]
    smooth = functional.avg_pool2d(whole, 3, 1, divisor_override=1).add_(inner, alpha=4).div_(13)
    if not images.is_floating_point():
        smooth.round_()
    changed = images.clone()
    changed[:, :, 1:-1, 1:-1] = blend(images[:, :, 1:-1, 1:-1], smooth, amount)
    return changed


def apply_table(images: UInt8[Tensor, "batch channel height width"], table: Table) -> Images:
    """Each pixel replaced by its level's entry."""
    rows = table.shape[0] * table.shape[1]
    starts = torch.arange(0, 256 * rows, 256, device=images.device, dtype=torch.int32)
    places = images.view(rows, -1) + starts[:, None]
    return table.flatten().index_select(0, places.flatten()).view_as(images)


def gray_levels(like: Tensor) -> Float[Tensor, "256"]:
    return torch.arange(256, device=like.device, dtype=torch.float32)


def brightness(images: Images, amount: Amount) -> Table:
    """0 is black, 1 as it was."""
    return _as_table((amount[:, None] * gray_levels(images)).clamp_(0, 255), images)


def contrast(images: Images, amount: Amount) -> Table:
    """0 is the mean brightness everywhere, 1 as it was."""
    table = blend(gray_levels(images).expand(len(images), -1), mean_gray(images)[:, None], amount)
    return _as_table(table, images)


def posterize(images: Images, bits: Amount) -> Table:
    """Only the highest `bits` of 8 are kept."""
    step = torch.exp2(8 - bits)[:, None]
    return _as_table((gray_levels(images) / step).floor_() * step, images)


def solarize(images: Images, threshold: Amount) -> Table:
    """Levels from `threshold` on are inverted."""
    each = gray_levels(images).expand(len(images), -1)
    return _as_table(torch.where(each >= threshold[:, None], 255 - each, each), images)


def autocontrast(images: Images, amount: Amount | None = None) -> Table:
    """Each channel's darkest level becomes 0 and its brightest 255."""
    low, high = (each.float()[..., None] for each in images.flatten(2).aminmax(dim=2))
    stretched = ((gray_levels(images) - low) * 255 / (high - low).clamp(min=1)).clamp_(0, 255)
    return torch.where(high > low, stretched, gray_levels(images)).to(torch.uint8)


def equalize(images: Images, amount: Amount | None = None) -> Table:
    """Each channel's levels are spread so that each is about as frequent.

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
    return table.to(torch.uint8)[:, None].expand(-1, images.shape[1], -1)


def rotate_hue(images: Images, turns: Amount) -> Images:
    """Hue moved by so many full turns of the colour circle; grey pictures stay. Float images."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    range_ = value - low
    over = range_.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / over,
        torch.where(value == green, 2 + (blue - red) / over, 4 + (red - green) / over),
    )
    hue = hue + 6 * turns.view(-1, 1, 1, 1)
    # red, green and blue as one wave, a third of a turn apart
    device = (hue + torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)) % 6
    return value - range_ * torch.minimum(device, 4 - device).clamp_(0, 1)


def jitter(strength: float, hue: float) -> Augmentation:
    """Brightness, contrast and saturation each by a factor between 1 - `strength` and 1 + `strength`,
    then the hue by up to ±`hue` of a turn; in this order. Returns float images (0..255)."""

    def jittered(images: Images, draw: Draw) -> Images:
        *factors, turns = (2 * draw(4) - 1).unbind(1)
        light, sharp, colour = (1 + strength * each for each in factors)
        images = (images * light.view(-1, 1, 1, 1)).clamp_(0, 255)
        images = blend(images, mean_gray(images).view(-1, 1, 1, 1), sharp)
        images = saturate(images, colour)
        return rotate_hue(images, turns * hue) if hue else images

    return jittered
