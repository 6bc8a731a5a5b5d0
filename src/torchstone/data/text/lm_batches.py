"""Random windows of a long text, without end; their whole state is how many were drawn."""

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.data.sampler import itself, load_position, position_state, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator


class LMBatches:
    """Endless (x, y), each int64 (share, length): y is x one token later.

    The windows' beginnings are drawn uniformly over the text, from `seed` and position alone: neither
    resuming nor more processes change any of them. `batch_size` counts the windows of all `world_size`
    processes together; process `rank` takes its share of each batch.

    Args:
        ids: the whole text; batches are on its device.
        length: tokens per window.

    Raises:
        BadInput: the text is shorter than one window and the token after it.
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
        if len(ids) <= length:
            raise BadInput(
                f"the text has {len(ids)} tokens, too few for windows of {length}: give more text, or "
                "a shorter context"
            )
        self.batch_size, self.seed = batch_size, seed
        self.share = slice(first, first + share)
        self.rows = ids.unfold(0, length + 1, 1)  # a view: every window there is
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> tuple[Int64[Tensor, "share length"], Int64[Tensor, "share length"]]:
        # on the CPU whatever the device, so that every device gets the same windows
        generator = derive_generator(self.seed, SeedStream.LM_WINDOWS, self.position)
        starts = torch.randint(len(self.rows), (self.batch_size,), generator=generator)[self.share]
        rows = self.rows[starts.to(self.rows.device)]  # (B, T + 1)
        self.position += self.batch_size
        return rows[:, :-1], rows[:, 1:]
