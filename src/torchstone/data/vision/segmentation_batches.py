"""Endless batches of images with their masks, both augmented alike; the whole state is a position."""

import re

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from torchstone.data.sampler import EpochSampler, itself, load_position, position_state, share_of_batch
from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.geometric_ops import Draw
from torchstone.data.vision.segmentation import SegmentationSplit
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator

ImagesAndMasks = tuple[Tensor, Tensor]


class RandomAffine:
    """Mirrors half of the images, scales by a factor of `min_scale` to `max_scale`, and translates.

    An image scaled up is cropped to its old sides; one scaled down is placed anywhere in them. Images
    are normalized, so that the zeros that enter are the mean color; bilinear. Masks take the nearest
    pixel; what enters is ignored.
    """

    def __init__(self, mirror: bool, min_scale: float, max_scale: float, shift: float):
        self.mirror, self.min_scale, self.max_scale, self.shift = mirror, min_scale, max_scale, shift

    def __call__(
        self,
        images: Float[Tensor, "batch channels height width"],
        masks: Int64[Tensor, "batch height width"],
        draw: Draw,
    ) -> ImagesAndMasks:
        turn, size, right, down = draw(4).unbind(1)
        factor = self.min_scale + size * (self.max_scale - self.min_scale)
        sign = torch.where(turn < 0.5, -1.0, 1.0) if self.mirror else torch.ones_like(turn)
        # where in the old image (−1..1) a new pixel comes from: x / factor + offset
        room = (1 - 1 / factor).abs() + 2 * self.shift
        zero = torch.zeros_like(factor)
        theta = torch.stack(
            [
                torch.stack([sign / factor, zero, room * (2 * right - 1)], 1),
                torch.stack([zero, 1 / factor, room * (2 * down - 1)], 1),
            ],
            1,
        )
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        augmented = functional.grid_sample(images, grid, align_corners=False)
        # offset, so that the zeros that enter are ignored
        labels = (masks - IGNORE_INDEX)[:, None].to(images.dtype)
        nearest = functional.grid_sample(labels, grid, mode="nearest", align_corners=False)
        return augmented, nearest[:, 0].long() + IGNORE_INDEX


def make_augmentation(name: str) -> RandomAffine | None:
    """`none`, or some of `flip`, `scale0.5-2` (factors) and `shift0.1` (of the side), joined by `+`.

    Raises:
        BadInput: another word, or numbers that make no sense.
    """
    if name == "none":
        return None
    mirror, min_scale, max_scale, shift = False, 1.0, 1.0, 0.0
    for word in name.split("+"):
        if word == "flip":
            mirror = True
        elif match := re.fullmatch(r"scale(\d*\.?\d+)-(\d*\.?\d+)", word):
            min_scale, max_scale = float(match[1]), float(match[2])
        elif match := re.fullmatch(r"shift(\d*\.?\d+)", word):
            shift = float(match[1])
        else:
            raise BadInput(
                f"unknown augmentation {word!r} for segmentation: none, or flip, scale0.5-2 and shift0.1 "
                "joined by +"
            )
    if not 0 < min_scale <= max_scale or shift >= 1:
        raise BadInput(
            f"{name!r} is not possible: scale takes two factors, the smaller first, above 0, and "
            "shift a share of the side below 1"
        )
    return RandomAffine(mirror, min_scale, max_scale, shift)


class SegmentationBatches:
    """Endless (images, masks): normalized float (share, 3, size, size), int64 (share, size, size).

    Order, shares and resuming are those of `batches.ImageBatches`: each epoch is a permutation,
    `batch_size` counts the images of all `world_size` processes, and augmentation depends on the seed
    and the position alone.
    """

    def __init__(
        self,
        split: SegmentationSplit,
        batch_size: int,
        *,
        seed: int,
        metadata: dict,
        augment: RandomAffine | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.first, self.share = share_of_batch(batch_size, rank, world_size)
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.metadata, self.augment = metadata, augment
        self.sampler = EpochSampler(len(split), [(self.first, self.share)], seed, split.device)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(
        self,
    ) -> tuple[Float[Tensor, "share channels height width"], Int64[Tensor, "share height width"]]:
        pixels, labels = self.split.take(self.sampler.index(self.position))
        images, masks = normalize(pixels, self.metadata), labels.long()
        if self.augment:
            images, masks = self.augment(images, masks, self._draw)
        self.position += self.batch_size
        return images, masks

    def _draw(self, *shape: int) -> Tensor:
        # on the CPU whatever the device, so that every device gets the same images
        generator = derive_generator(self.seed, SeedStream.AUGMENTATION, self.position)
        numbers = torch.rand(self.batch_size, *shape, generator=generator)
        return numbers[self.first : self.first + self.share].to(self.split.device)
