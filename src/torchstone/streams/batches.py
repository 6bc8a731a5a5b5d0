"""Batches without end, whose whole state is how many samples were consumed."""

import signal
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.streams.augment import Augmentation
from torchstone.streams.images import Pictures, scale_and_offset

ORDER, AUGMENTATION = 0, 1


def mix(seed: int, purpose: int, counter: int) -> int:
    """One 63-bit seed out of three numbers (the SplitMix64 finaliser, Steele et al. 2014)."""
    word = 0
    for number in (seed, purpose, counter):
        word = (word + number + 0x9E3779B97F4A7C15) % 2**64
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % 2**64
        word ^= word >> 31
    return word >> 1


class Batches:
    """Endless (pictures, labels): normalised float (share, channel, size, size) and int64 (share,).

    Each epoch is a permutation fixed by `seed` and its number, and the epochs are joined end to end, so
    that batches are always full and every sample comes once an epoch. `batch` counts the samples of
    all `world` processes together; process `rank` takes its share of each. Augmentation draws from
    a generator seeded anew by `seed` and position, for the whole batch, whatever the share: neither
    resuming nor more processes change any picture.

    `workers` processes decode pictures that are on disk (0: none; by default up to 4).
    """

    def __init__(
        self,
        pictures: Pictures,
        batch: int,
        *,
        seed: int,
        card: dict,
        augment: Augmentation | None = None,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
    ):
        if batch < 1 or batch % world:
            raise BadInput(
                f"a batch of {batch} cannot be shared by {world} processes; use a multiple"
            )
        if not len(pictures):
            raise BadInput("no pictures to make batches of")
        self.pictures, self.batch, self.seed, self.augment = (
            pictures,
            batch,
            seed,
            augment,
        )
        self.share = batch // world
        self.first = rank * self.share
        self.workers = min(4, torch.get_num_threads()) if workers is None else workers
        self.device = pictures.labels.device
        self.factor, self.offset = scale_and_offset(card, self.device)
        self.position = 0
        self.orders: dict[int, Tensor] = {}
        self.ahead: Iterator | None = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(
        self,
    ) -> tuple[Float[Tensor, "share channel height width"], Int64[Tensor, " share"]]:
        index = self.index(self.position)
        if isinstance(self.pictures.images, Tensor):
            images = self.pictures.images.index_select(0, index)
        else:
            images = self._decoded()
        if self.augment:
            images = self.augment(images, self._draw())
        self.position += self.batch
        images = images.float().mul_(self.factor).add_(self.offset)  # a copy already: in place
        return images, self.pictures.labels.index_select(0, index)

    def index(self, position: int) -> Int64[Tensor, " share"]:
        """Which samples this process takes from the batch that begins at `position`."""
        start, count = position + self.first, len(self.pictures)
        epoch, offset = divmod(start, count)
        if offset + self.share <= count:
            return self._order(epoch)[offset : offset + self.share]
        pieces, missing = [], self.share
        while missing:
            pieces.append(self._order(epoch)[offset : offset + missing])
            missing -= len(pieces[-1])
            epoch, offset = epoch + 1, 0
        return torch.cat(pieces)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self.orders:
            generator = torch.Generator().manual_seed(mix(self.seed, ORDER, epoch))
            order = torch.randperm(len(self.pictures), generator=generator).to(self.device)
            # The one before stays: a batch may reach over two epochs, and workers run ahead.
            self.orders = {e: o for e, o in self.orders.items() if e == epoch - 1} | {epoch: order}
        return self.orders[epoch]

    def _draw(self):
        # On the CPU whatever the device, so that every device sees the same pictures.
        generator = torch.Generator().manual_seed(mix(self.seed, AUGMENTATION, self.position))

        def draw(*shape: int) -> Tensor:
            numbers = torch.rand(self.batch, *shape, generator=generator)
            return numbers[self.first : self.first + self.share].to(self.device)

        return draw

    def _decoded(self) -> Tensor:
        if self.ahead is None:
            loader = torch.utils.data.DataLoader(
                self.pictures.images,  # ty: ignore[invalid-argument-type]
                batch_sampler=_indices(self, self.position),
                num_workers=self.workers,
                collate_fn=_stack,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_quiet if self.workers else None,
                generator=torch.Generator(),  # else it would draw from the global one, once a start
            )
            self.ahead = iter(loader)
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


def _indices(batches: Batches, position: int) -> Iterator[list[int]]:
    """What workers are to decode, from `position` on; it reads `batches` only for the order."""
    while True:
        yield batches.index(position).tolist()
        position += batches.batch


def _stack(pictures: list[Tensor | str]) -> Tensor | str:
    errors = [picture for picture in pictures if isinstance(picture, str)]
    return errors[0] if errors else torch.stack([p for p in pictures if isinstance(p, Tensor)])


def _quiet(worker: int) -> None:
    # Signals are for the main process, which saves and ends; its handlers were inherited here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
