"""Endless batches of images; the whole state is how many samples were consumed."""

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.data.vision.dataset import ImageSplit, scale_and_offset
from torchstone.data.vision.geometric_ops import Augmentation, Draw
from torchstone.data.vision.mixup import Mixing
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator

_running: weakref.WeakSet = weakref.WeakSet()


class ImageBatches:
    """Endless (images, labels): normalized float (share, channel, size, size) and int64 (share,), or
    with `mixing` soft labels, float (share, classes), whose rows sum to 1.

    Each epoch is a permutation fixed by `seed` and its number. Epochs are joined end to end, so batches
    are always full and every sample comes once per epoch. `batch_size` counts the samples of all
    `world_size` processes together; process `rank` takes its share of each batch. Augmentation draws
    from a generator seeded by `seed` and position, for the joint batch: neither resuming nor more
    processes change any image.

    An image is mixed with the next one of the joint batch, the last with the first: as the order is
    random, so is the partner. A process takes the first image of the next one's share too.

    `workers` processes decode images that are on disk (0: none; by default up to 4).
    """

    def __init__(
        self,
        split: ImageSplit,
        batch_size: int,
        *,
        seed: int,
        metadata: dict,
        augment: Augmentation | None = None,
        mixing: Mixing | None = None,
        classes: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int | None = None,
    ):
        first, share = share_of_batch(batch_size, rank, world_size)
        if not len(split):
            raise BadInput("no images to make batches of")
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.augment, self.mixing, self.classes = augment, mixing, classes
        self.first, self.share = first, share
        self.workers = min(4, torch.get_num_threads()) if workers is None else workers
        self.device = split.labels.device
        self.scale, self.offset = scale_and_offset(metadata, self.device)
        rows = [(first, share)]
        if mixing and world_size > 1:
            rows.append(((first + share) % batch_size, 1))
        self.sampler = EpochSampler(len(split), rows, seed, self.device)
        self.position = 0
        self.loader: Iterator | None = None

    def __iter__(self) -> "ImageBatches":
        return self

    def __next__(
        self,
    ) -> tuple[
        Float[Tensor, "share channel height width"], Int64[Tensor, " share"] | Float[Tensor, "share classes"]
    ]:
        index = self.sampler.index(self.position)
        if isinstance(self.split.images, Tensor):
            images = self.split.images.index_select(0, index)
        else:
            images = self._next_decoded()
        labels = self.split.labels.index_select(0, index)
        # On the CPU whatever the device, so that every device gets the same images.
        generator = derive_generator(self.seed, SeedStream.AUGMENTATION, self.position)
        if self.augment:
            images = self.augment(images, self._draw(generator, self.sampler.rows))
        if self.mixing:
            images, labels = self._mix(images, labels, self._draw(generator, self.sampler.rows[:1]))
        self.position += self.batch_size
        images = images.float().mul_(self.scale).add_(self.offset)  # a copy already: in place
        return images, labels

    def _draw(self, generator: torch.Generator, rows: list[tuple[int, int]]) -> Draw:
        def draw(*shape: int) -> Tensor:
            numbers = torch.rand(self.batch_size, *shape, generator=generator)
            spans = [numbers[first : first + count] for first, count in rows]
            return (spans[0] if len(spans) == 1 else torch.cat(spans)).to(self.device)

        return draw

    def share_noise(
        self, distribution: Callable[..., Tensor], generator: torch.Generator, *shape: int
    ) -> Float[Tensor, "share *shape"]:
        """This process's rows of random numbers (batch, *shape) that are drawn for the full batch."""
        numbers = distribution(self.batch_size, *shape, generator=generator)
        return numbers[self.first : self.first + self.share].to(self.device, non_blocking=True)

    def _mix(self, images: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        assert self.mixing
        soft = one_hot(labels, self.classes).float()
        (x, partner), (y, z) = ((e[: self.share], e.roll(-1, 0)[: self.share]) for e in (images, soft))
        mixed, weight = self.mixing(x, partner, draw)
        return mixed, torch.lerp(z, y, weight[:, None])

    def _next_decoded(self) -> Tensor:
        if self.loader is None:
            loader = torch.utils.data.DataLoader(
                self.split.images,  # ty: ignore[invalid-argument-type]
                batch_sampler=self.sampler.ahead(self.position, self.batch_size),
                num_workers=self.workers,
                collate_fn=_collate,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_ignore_signals if self.workers else None,
                generator=torch.Generator(),  # else each start would draw from the global one
            )
            self.loader = iter(loader)
            _running.add(self)
        images = next(self.loader)
        if isinstance(images, str):
            self.close()
            raise BadInput(images)
        return images.to(self.device, non_blocking=True)

    def close(self) -> None:
        """End the workers. They also end with this object; iterating again starts new ones."""
        self.loader = None

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.close()
        self.position = int(state["position"])


# Methods of a stream made of another, `batches`, whose state is its own: what a class takes for `state_dict`
# and `load_state_dict`.


def inner_state(stream: Any) -> dict[str, int]:
    return stream.batches.state_dict()


def load_inner(stream: Any, state: dict[str, int]) -> None:
    stream.batches.load_state_dict(state)


@atexit.register
def _close_all() -> None:
    # Before multiprocessing's own hook, which would kill the workers and make torch complain.
    for batches in list(_running):
        batches.close()


def _collate(images: list[Tensor | str]) -> Tensor | str:
    errors = [image for image in images if isinstance(image, str)]
    return errors[0] if errors else torch.stack([image for image in images if isinstance(image, Tensor)])


def _ignore_signals(worker: int) -> None:
    # Signals are for the main process, which saves and ends; its handlers were inherited here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
