"""Batches without end, whose whole state is how many samples were consumed."""

import atexit
import signal
import weakref
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.data.vision.dataset import ImageSplit, scale_and_offset
from torchstone.data.vision.geometric_ops import Augmentation, Draw
from torchstone.data.vision.mixup import Mixing
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed

_running: weakref.WeakSet = weakref.WeakSet()


class ImageBatches:
    """Endless (pictures, labels): normalised float (share, channel, size, size) and int64 (share,),
    or with `mixing` float (share, classes): shares of each class that add up to 1.

    Each epoch is a permutation fixed by `seed` and its number, and the epochs are joined end to end, so
    that batches are always full and every sample comes once an epoch. `batch` counts the samples of
    all `world` processes together; process `rank` takes its share of each. Augmentation draws from
    a generator seeded anew by `seed` and position, for the whole batch, whatever the share: neither
    resuming nor more processes change any picture.

    A picture is mixed with the next one of the joint batch, the last with the first: as the order is
    drawn at random, so is the partner. A process takes the first picture of the next one's share too.

    `workers` processes decode pictures that are on disk (0: none; by default up to 4).
    """

    def __init__(
        self,
        pictures: ImageSplit,
        batch: int,
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
        first, share = share_of_batch(batch, rank, world_size)
        if not len(pictures):
            raise BadInput("no pictures to make batches of")
        self.pictures, self.batch, self.seed = pictures, batch, seed
        self.augment, self.mixing, self.classes = augment, mixing, classes
        self.first, self.share = first, share
        self.workers = min(4, torch.get_num_threads()) if workers is None else workers
        self.device = pictures.labels.device
        self.factor, self.offset = scale_and_offset(metadata, self.device)
        rows = [(self.first, self.share)]
        if mixing and world_size > 1:
            rows.append(((self.first + self.share) % batch, 1))
        self.order = EpochSampler(len(pictures), rows, seed, self.device)
        self.position = 0
        self.ahead: Iterator | None = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(
        self,
    ) -> tuple[
        Float[Tensor, "share channel height width"],
        Int64[Tensor, " share"] | Float[Tensor, "share classes"],
    ]:
        index = self.order.index(self.position)
        if isinstance(self.pictures.images, Tensor):
            images = self.pictures.images.index_select(0, index)
        else:
            images = self._decoded()
        labels = self.pictures.labels.index_select(0, index)
        # On the CPU whatever the device, so that every device sees the same pictures.
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, SeedStream.AUGMENTATION, self.position)
        )
        if self.augment:
            images = self.augment(images, self._draw(generator, self.order.rows))
        if self.mixing:
            images, labels = self._mixed(images, labels, self._draw(generator, self.order.rows[:1]))
        self.position += self.batch
        images = images.float().mul_(self.factor).add_(self.offset)  # a copy already: in place
        return images, labels

    def _draw(self, generator: torch.Generator, rows: list[tuple[int, int]]) -> Draw:
        def draw(*shape: int) -> Tensor:
            numbers = torch.rand(self.batch, *shape, generator=generator)
            spans = [numbers[first : first + count] for first, count in rows]
            return (spans[0] if len(spans) == 1 else torch.cat(spans)).to(self.device)

        return draw

    def _mixed(self, images: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        assert self.mixing
        soft = one_hot(labels, self.classes).float()
        (own, other), (y, z) = ((e[: self.share], e.roll(-1, 0)[: self.share]) for e in (images, soft))
        mixed, share = self.mixing(own, other, draw)
        return mixed, torch.lerp(z, y, share[:, None])

    def _decoded(self) -> Tensor:
        if self.ahead is None:
            loader = torch.utils.data.DataLoader(
                self.pictures.images,  # ty: ignore[invalid-argument-type]
                batch_sampler=self.order.ahead(self.position, self.batch),
                num_workers=self.workers,
                collate_fn=_stack,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_quiet if self.workers else None,
                generator=torch.Generator(),  # else it would draw from the global one, once a start
            )
            self.ahead = iter(loader)
            _running.add(self)
        images = next(self.ahead)
        if isinstance(images, str):
            self.close()
            raise BadInput(images)
        return images.to(self.device, non_blocking=True)

    def close(self) -> None:
        """Ends the workers. They also end with this object; iterating again starts new ones."""
        self.ahead = None

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.close()
        self.position = int(state["position"])


@atexit.register
def _end() -> None:
    # Before multiprocessing's own hook, which would kill the workers and make torch complain.
    for batches in list(_running):
        batches.close()


def _stack(pictures: list[Tensor | str]) -> Tensor | str:
    errors = [picture for picture in pictures if isinstance(picture, str)]
    return errors[0] if errors else torch.stack([p for p in pictures if isinstance(p, Tensor)])


def _quiet(worker: int) -> None:
    # Signals are for the main process, which saves and ends; its handlers were inherited here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
