"""The stream of images that a recipe describes."""

from typing import Any

from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.engine import parallel


def image_batches(recipe: Any, split: ImageSplit, metadata: dict[str, Any]) -> ImageBatches:
    """This process's share of endless batches of `split`, augmented, and normalized as `metadata` says.

    Of the recipe: batch_size, augment, seed.

    Raises:
        BadInput: an unknown augmentation, no images, or a batch that cannot be shared evenly.
    """
    augment = make_augmentation(recipe.augment)
    return ImageBatches(
        split, recipe.batch_size, seed=recipe.seed, metadata=metadata, augment=augment, **parallel.share()
    )
