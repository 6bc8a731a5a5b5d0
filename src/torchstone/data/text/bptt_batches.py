"""A long row of tokens read in lanes, window after window: what came before can be carried along."""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.data.sampler import share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed


class BPTTWindow(NamedTuple):
    """`y` is `x` one token later; `fresh` says that the lanes begin here, and nothing was before."""

    x: Int64[Tensor, "lanes time"]
    y: Int64[Tensor, "lanes time"]
    fresh: bool


class BPTTBatches:
    """Endless `Window`s: the text in `batch` lanes of equal length, each read on where it stood.

    An epoch reads every lane to its end; its last window may be shorter. What is too little for one
    more token in each lane is left out, now of the beginning, now of the end: where the lanes begin is
    drawn by `seed` and the epoch. The whole state is how many windows were drawn. `batch` counts the
    lanes of all `world` processes together, and process `rank` has its share of them.

    Args:
        ids: the whole text; windows are on its device.
        length: tokens in a window.

    Raises:
        BadInput: a text too short for two tokens in each lane; lanes that cannot be shared.
    """

    def __init__(
        self,
        ids: Int64[Tensor, " tokens"],
        length: int,
        batch: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch, rank, world_size)
        if length < 1:
            raise BadInput(f"a window has at least 1 token, not {length}")
        self.lane = (len(ids) - 1) // batch  # tokens told in each
        if self.lane < 1:
            raise BadInput(
                f"the text has {len(ids)} tokens, too few for {batch} lanes: give more text, or a "
                "smaller batch"
            )
        self.ids, self.length, self.batch, self.seed = ids, length, batch, seed
        self.share = slice(first, first + share)
        self.windows = -(-self.lane // length)
        self.position = 0

    def __iter__(self) -> "Lanes":
        return self

    def __next__(self) -> BPTTWindow:
        epoch, window = divmod(self.position, self.windows)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.BPTT_LANES, epoch))
        spare = len(self.ids) - 1 - self.lane * self.batch
        begin = int(torch.randint(spare + 1, (1,), generator=generator))
        size = self.batch * self.lane
        at = slice(window * self.length, (window + 1) * self.length)
        x, y = (
            self.ids[first : first + size].view(self.batch, self.lane)[self.share, at]
            for first in (begin, begin + 1)
        )
        self.position += 1
        return BPTTWindow(x, y, window == 0)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
