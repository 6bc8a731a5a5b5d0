"""Endless batches of pictures with their masks, both moved alike; the whole state is a position."""

import re

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.geometric_ops import Draw
from torchstone.data.vision.segmentation import SegmentationSplit
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed

ImagesAndMasks = tuple[Tensor, Tensor]


class RandomAffine:
    """Mirrors in half of the cases, scales by a factor of `low` to `high`, cuts or places at random.

    A picture scaled up is cut to its old sides; one scaled down is placed anywhere in them. Pictures
    are normalised, so that the zeros that enter are the mean colour; bilinear. Masks are moved by the
    nearest pixel; what enters is void.
    """

    def __init__(self, mirror: bool, low: float, high: float, shift: float):
        self.mirror, self.low, self.high, self.shift = mirror, low, high, shift

    def __call__(
        self,
        images: Float[Tensor, "batch channels height width"],
        masks: Int64[Tensor, "batch height width"],
        draw: Draw,
    ) -> ImagesAndMasks:
        turn, size, right, down = draw(4).unbind(1)
        factor = self.low + size * (self.high - self.low)
        sign = torch.where(turn < 0.5, -1.0, 1.0) if self.mirror else torch.ones_like(turn)
        # where on the old picture (−1..1) a new pixel comes from: x / factor + offset
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
        moved = functional.grid_sample(images, grid, align_corners=False)
        # shifted, so that the zeros that enter are void
        labels = (masks - IGNORE_INDEX)[:, None].to(images.dtype)
        nearest = functional.grid_sample(labels, grid, mode="nearest", align_corners=False)
        return moved, nearest[:, 0].long() + IGNORE_INDEX


def make_augmentation(name: str) -> RandomAffine | None:
    """`none`, or some of `flip`, `scale0.5-2` (factors) and `shift0.1` (of the side), joined by `+`.

    Raises:
        BadInput: another word, or numbers that make no sense.
    """
    if name == "none":
        return None
    mirror, low, high, shift = False, 1.0, 1.0, 0.0
    for word in name.split("+"):
        if word == "flip":
            mirror = True
        elif found := re.fullmatch(r"scale(\d*\.?\d+)-(\d*\.?\d+)", word):
            low, high = float(found[1]), float(found[2])
        elif found := re.fullmatch(r"shift(\d*\.?\d+)", word):
            shift = float(found[1])
        else:
            raise BadInput(
                f"unknown augmentation {word!r} of scenes: none, or flip, scale0.5-2 and shift0.1 joined by +"
            )
    if not 0 < low <= high or shift >= 1:
        raise BadInput(
            f"{name!r} cannot be done: scale takes two factors, the smaller first, above 0, and "
            "shift a share of the side below 1"
        )
    return RandomAffine(mirror, low, high, shift)


class SegmentationBatches:
    """Endless (pictures, masks): normalised float (share, 3, size, size), int64 (share, size, size).

    Order, shares and resuming are those of `batches.Batches`: each epoch is a permutation, `batch`
    counts the pictures of all `world` processes, and what augmentation draws hangs on the seed and
    the position alone.
    """

    def __init__(
        self,
        scenes: SegmentationSplit,
        batch: int,
        *,
        seed: int,
        metadata: dict,
        augment: RandomAffine | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch, rank, world_size)
        self.scenes, self.batch, self.seed = scenes, batch, seed
        self.metadata, self.augment = metadata, augment
        self.first, self.share = first, share
        self.order = EpochSampler(len(scenes), [(self.first, self.share)], seed, scenes.device)
        self.position = 0

    def __iter__(self) -> "SceneBatches":
        return self

    def __next__(
        self,
    ) -> tuple[Float[Tensor, "share channels height width"], Int64[Tensor, "share height width"]]:
        pictures, labels = self.scenes.take(self.order.index(self.position))
        images, masks = normalize(pictures, self.metadata), labels.long()
        if self.augment:
            images, masks = self.augment(images, masks, self._draw)
        self.position += self.batch
        return images, masks

    def _draw(self, *shape: int) -> Tensor:
        # on the CPU whatever the device, so that every device sees the same pictures
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, SeedStream.AUGMENTATION, self.position)
        )
        numbers = torch.rand(self.batch, *shape, generator=generator)
        return numbers[self.first : self.first + self.share].to(self.scenes.device)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
