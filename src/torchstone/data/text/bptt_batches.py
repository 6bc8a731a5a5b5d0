"""Batches for truncated back-propagation through time: a text in parallel lanes, window after window."""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.data.sampler import itself, load_position, position_state, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator


class BPTTWindow(NamedTuple):
    """`y` is `x` one token later; `reset` marks the first window of an epoch, which has no history."""

    x: Int64[Tensor, "lanes time"]
    y: Int64[Tensor, "lanes time"]
    reset: bool


class BPTTBatches:
    """Endless `BPTTWindow`s: the text in `batch_size` lanes of equal length, each continuing where it ended.

    An epoch reads every lane to its end; its last window may be shorter. The tokens that do not fill
    another column of the lanes are left out, at the beginning or the end: the offset is drawn by `seed`
    and the epoch. The position, the number of windows so far, is the full state. `batch_size` counts the
    lanes of all processes together, and process `rank` has its share of them.

    Args:
        ids: the full text; windows are on its device.
        length: tokens in a window.

    Raises:
        BadInput: a text too short for two tokens in each lane; lanes that cannot be shared.
    """

    def __init__(
        self,
        ids: Int64[Tensor, " tokens"],
        length: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch_size, rank, world_size)
        if length < 1:
            raise BadInput(f"a window must have at least 1 token, not {length}")
        self.lane_length = (len(ids) - 1) // batch_size  # tokens predicted in each
        if self.lane_length < 1:
            raise BadInput(
                f"the text has {len(ids)} tokens, too few for {batch_size} lanes: give more text, or a "
                "smaller batch_size"
            )
        self.ids, self.length, self.batch_size, self.seed = ids, length, batch_size, seed
        self.share = slice(first, first + share)
        self.windows = -(-self.lane_length // length)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> BPTTWindow:
        epoch, window = divmod(self.position, self.windows)
        generator = derive_generator(self.seed, SeedStream.BPTT_LANES, epoch)
        size = self.batch_size * self.lane_length
        spare = len(self.ids) - 1 - size
        offset = int(torch.randint(spare + 1, (1,), generator=generator))
        time = slice(window * self.length, (window + 1) * self.length)
        x, y = (
            self.ids[first : first + size].view(self.batch_size, self.lane_length)[self.share, time]
            for first in (offset, offset + 1)
        )
        self.position += 1
        return BPTTWindow(x, y, window == 0)
