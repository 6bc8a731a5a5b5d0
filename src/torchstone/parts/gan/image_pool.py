"""A pool of generated images, so that a discriminator learns from a history of them, not from the last alone.

Shrivastava et al. 2017 (arXiv:1612.07828), section 2.3; as Zhu et al. 2017 (arXiv:1703.10593), section 4, use
it: while it is not full an image is kept and returned. After that a coin decides for each image, whether it
is returned itself, or a stored one, in whose place it is kept.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

COIN = 0.5  # above it, a stored image is returned


class ImagePool:
    """Up to `size` images; with 0 each is returned itself."""

    def __init__(self, size: int = 50):
        self.size = size
        self.images: Tensor | None = None
        self.count = 0

    def query(
        self, images: Float[Tensor, "batch channel height width"], chance: Float[Tensor, "batch 2"]
    ) -> Float[Tensor, "batch channel height width"]:
        """As many images, one for each of `images`, without their graph.

        Args:
            chance: for each a coin, and which stored one it is about, uniform on 0..1; on the CPU.
        """
        images = images.detach()
        if self.size == 0:
            return images
        if self.images is None:
            self.images = images.new_zeros(self.size, *images.shape[1:])
        self.images = self.images.to(images.device)  # it is loaded onto the CPU
        answers = images.clone()
        for row, (coin, which) in enumerate(chance.tolist()):
            if self.count < self.size:
                self.images[self.count] = images[row]
                self.count += 1
            elif coin > COIN:
                slot = min(int(which * self.size), self.size - 1)
                answers[row] = self.images[slot]
                self.images[slot] = images[row]
        return answers

    def state_dict(self) -> dict[str, Any]:
        images = None if self.images is None else self.images[: self.count].cpu()
        return {"images": images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        images = state["images"]
        self.images, self.count = None, 0
        if images is not None:
            self.images = images.new_zeros(self.size, *images.shape[1:])
            self.images[: len(images)] = images
            self.count = len(images)
