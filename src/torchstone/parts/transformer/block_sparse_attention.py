"""Block-sparse attention: blocks of neighbors, random blocks, and the global first and last block."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.parts.transformer.block_attention import ExtraKeys, FullBlocks, block_attention
from torchstone.parts.transformer.global_tokens import GlobalTokens

BITS = 31  # of the uniform numbers that random blocks are kept as


def block_sparse_attention(
    q: Float[Tensor, "batch heads length head_dim"],
    k: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length values"],
    *,
    block_size: int,
    side_blocks: int = 1,
    random_blocks: Int64[Tensor, "#batch #heads blocks random"] | None = None,
    mask: Bool[Tensor, "batch length"] | None = None,
    global_blocks: Int64[Tensor, "batch 2"] | None = None,
    global_tokens: GlobalTokens | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads length values"]:
    """Attention by blocks of tokens: each block attends to its neighbors, to random and to global blocks.

    Zaheer et al. 2020 (arXiv:2007.14062), section 2, as BigBird-ITC: the global blocks are the first and the
    last of the text. They attend to all tokens, and all attend to them. The last block is that of the text,
    not that of its padding, so that padding after it changes nothing; padding before it, if it is whole
    blocks.

    Args:
        block_size: tokens of a block. A last block may be shorter.
        side_blocks: neighboring blocks on each side.
        random_blocks: for each head and block, the random blocks it attends to (`RandomBlocks`); -1 is none.
            A block that another rule lists too counts once more.
        mask: True for tokens, False for padding, which no token attends to and which gets zeros.
        global_blocks: first and last block of each text; by default those of its first and last token.
        global_tokens: tokens that are global besides.
        scale: factor of the scores; by default 1/√head_dim.
        dropout: dropout probability of the attention weights; 0 outside training.
    """
    batch, heads, length, _ = q.shape
    blocks = -(-length // block_size)
    padding = blocks * block_size - length
    extra, unpadded = None, (q, k, v)
    key_mask = q.new_ones(batch, length, dtype=torch.bool) if mask is None else mask
    if global_blocks is None:
        global_blocks = text_blocks(key_mask, block_size)
    if padding:
        q, k, v = (F.pad(x, (0, 0, 0, padding)) for x in (q, k, v))
        key_mask = F.pad(key_mask, (0, padding))
    listed_mask = key_mask
    if global_tokens is not None and global_tokens.positions.shape[1]:
        listed_mask = global_tokens.hide(key_mask)
        extra = ExtraKeys(
            global_tokens.gather_heads(k), global_tokens.gather_heads(v), global_tokens.is_token
        )
    table = _table(global_blocks, blocks, side_blocks)[:, None]
    if random_blocks is not None:
        random = random_blocks.expand(batch, heads, -1, -1)
        table = torch.cat([table.expand(-1, heads, -1, -1), random], 3)
    full = FullBlocks(global_blocks, None if mask is None and not padding else key_mask)
    out = block_attention(
        q, k, v, table, key_mask=listed_mask, extra=extra, full=full, scale=scale, dropout=dropout
    )
    out = out[:, :, :length]
    if mask is not None:
        out = out.masked_fill(~mask[:, None, :, None], 0)
    if global_tokens is None or extra is None:
        return out
    q, k, v = unpadded
    queries = global_tokens.gather_heads(q)
    found = global_tokens.attend_to_all(queries, k, v, mask=mask, scale=scale, dropout=dropout)
    return global_tokens.replace(out, found)


def text_blocks(mask: Bool[Tensor, "batch length"], block_size: int) -> Int64[Tensor, "batch 2"]:
    """The blocks of the first and the last token of each text; (0, 0) of a text without tokens."""
    position = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, position, 0).amax(1)
    first = torch.where(mask, position, mask.shape[1]).amin(1).minimum(last)
    return torch.stack([first, last], 1) // block_size


def _table(global_blocks: Tensor, blocks: int, side_blocks: int) -> Int64[Tensor, "batch blocks listed"]:
    """Of each block of a text: its neighbors and the global blocks, each once; -1 is none."""
    first, last = (x[:, None, None] for x in global_blocks.unbind(1))
    block = torch.arange(blocks, device=first.device)[None, :, None]
    near = block + torch.arange(-side_blocks, side_blocks + 1, device=first.device)
    near = near.masked_fill((near < first) | (near > last), -1)
    ends = torch.cat([first, last], 2).expand(-1, blocks, -1)
    is_near = (ends - block).abs() <= side_blocks
    return torch.cat([near.expand(len(first), -1, -1), ends.masked_fill(is_near, -1)], 2)


class RandomBlocks(nn.Module):
    """Which random blocks each head and block attends to: drawn once, and kept in the checkpoint.

    Zaheer et al. 2020 (arXiv:2007.14062), appendix D: each head draws its own, among the blocks that are
    neither neighbors nor global, without repetition. The same blocks are used in training and evaluation.
    What is kept are uniform numbers, which stand for blocks of a text once its length is known: so its
    blocks do not depend on the padding of its batch.

    Args:
        max_blocks: blocks of the longest text.
        random: random blocks of each block.
        seed: of the draw; layers that are to differ need different ones.
    """

    uniform: Tensor

    def __init__(self, heads: int, max_blocks: int, random: int, *, seed: int):
        super().__init__()
        generator = derive_generator(seed, SeedStream.RANDOM_BLOCKS, 0)
        # whole numbers, which no `.to(torch.bfloat16)` rounds
        uniform = torch.randint(2**BITS, (heads, max_blocks, random), generator=generator)
        self.register_buffer("uniform", uniform)

    def forward(
        self, global_blocks: Int64[Tensor, "batch 2"], blocks: int, side_blocks: int = 1
    ) -> Int64[Tensor, "batch heads blocks random"]:
        """The random blocks of texts whose first and last block are given; -1 where none is left.

        Args:
            blocks: number of blocks with padding.
        """
        max_blocks = self.uniform.shape[1]
        if blocks > max_blocks:
            raise ValueError(f"{blocks} blocks, but random blocks were drawn for {max_blocks}")
        first, last = global_blocks[:, :1], global_blocks[:, 1:]
        total = last - first + 1  # (batch, 1)
        own = torch.arange(blocks, device=first.device) - first  # (batch, blocks), from the text's first
        near = own[:, :, None] + torch.arange(-side_blocks, side_blocks + 1, device=first.device)
        ends = torch.stack([torch.zeros_like(total), total - 1], 2).expand(-1, blocks, -1)
        taken = torch.cat([near, ends], 2)
        is_repeated = (ends - own[:, :, None]).abs() <= side_blocks
        is_out = (near < 0) | (near >= total[:, :, None])
        beyond = torch.cat([is_out, is_repeated], 2)
        left = total - (~beyond).sum(2)  # (batch, blocks): how many there are to draw from
        # sorted, so that the i-th of those left is found by stepping over the taken ones
        taken = taken.masked_fill(beyond, max_blocks + 1).sort(2).values[:, None]
        uniform = self.uniform[:, own.clamp(0, max_blocks - 1)].transpose(0, 1)  # (B, H, blocks, random)
        ranks, found = [], torch.full(uniform.shape, -1, device=first.device)
        for i in range(uniform.shape[3]):
            number = (left - i)[:, None]  # (batch, 1, blocks): those that are left
            rank = uniform[..., i] * number >> BITS  # from 0 to number - 1
            if ranks:
                rank = _step_over(rank, torch.stack(ranks, 3).sort(3).values)
            ranks.append(torch.where(number > 0, rank, max_blocks + 1))
            found[..., i] = torch.where(number > 0, _step_over(rank, taken) + first[:, :, None], -1)
        return found


def _step_over(rank: Tensor, taken: Tensor) -> Tensor:
    """The `rank`-th number, from 0, that is not among the `taken` ones, which are sorted (last axis)."""
    for one in taken.unbind(-1):
        rank = rank + (rank >= one)
    return rank
