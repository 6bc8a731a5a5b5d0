"""A U-Net's stages, one a grid: blocks, attention, and the way to the next grid."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torchstone.parts.diffusion.unet_blocks import Attend, Block, Double, Halve

Maps = Float[Tensor, "batch channel height width"]
MakeBlock = Callable[..., Block]  # (inputs, outputs, resize=)
MakeAttend = Callable[[int], Attend]  # (channels)


class Down(nn.Module):
    """Blocks on one grid, attention after each or after none, then perhaps a smaller grid.

    What comes of every block, and the smaller grid, is kept in `skips` for the way up.
    """

    def __init__(self, blocks: Iterable[Block], attentions: Iterable[Attend], resize: nn.Module | None):
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.resize = resize

    def forward(
        self,
        x: Maps,
        e: Float[Tensor, "batch inner"],
        skips: list[Tensor],
        text: Float[Tensor, "batch places context"] | None = None,
        mask: Bool[Tensor, "batch places"] | None = None,
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        for number, block in enumerate(self.blocks):
            x = block(x, e)
            if self.attentions:
                x = self.attentions[number](x, text, mask)
            skips.append(x)
        if self.resize is not None:
            x = resized(self.resize, x, e)
            skips.append(x)
        return x


class Up(nn.Module):
    """The same the other way: every block takes from `skips` what was kept last, beside its input."""

    def __init__(self, blocks: Iterable[Block], attentions: Iterable[Attend], resize: nn.Module | None):
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.resize = resize

    def forward(
        self,
        x: Maps,
        e: Float[Tensor, "batch inner"],
        skips: list[Tensor],
        text: Float[Tensor, "batch places context"] | None = None,
        mask: Bool[Tensor, "batch places"] | None = None,
    ) -> Float[Tensor, "batch out_channel out_height out_width"]:
        for number, block in enumerate(self.blocks):
            x = block(torch.cat([x, skips.pop()], 1), e)
            if self.attentions:
                x = self.attentions[number](x, text, mask)
        return x if self.resize is None else resized(self.resize, x, e)


def resized(layer: nn.Module, x: Tensor, e: Tensor) -> Tensor:
    """Through a `Halve`, a `Double` or a `Block` that does either."""
    return layer(x, e) if isinstance(layer, Block) else layer(x)


def downwards(
    widths: Sequence[int],
    attention: Sequence[bool],
    convolve: Sequence[bool],
    depth: int,
    block: MakeBlock,
    attend: MakeAttend,
    padding: int,
) -> tuple[nn.ModuleList, list[int]]:
    """The stages from the finest grid to the coarsest, and the channels of all that they keep."""
    stages, kept, last = [], [widths[0]], len(widths) - 1
    for i, width in enumerate(widths):
        ends = pairwise([kept[-1], *[width] * depth])
        blocks = [block(inputs, outputs) for inputs, outputs in ends]
        resize = None
        if i < last:
            resize = Halve(width, padding) if convolve[i] else block(width, width, resize="halve")
        stages.append(Down(blocks, [attend(width) for _ in blocks if attention[i]], resize))
        kept += [width] * (depth + (i < last))
    return nn.ModuleList(stages), kept


def upwards(
    widths: Sequence[int],
    attention: Sequence[bool],
    convolve: Sequence[bool],
    kept: list[int],
    depth: int,
    block: MakeBlock,
    attend: MakeAttend,
) -> nn.ModuleList:
    """The stages back, `widths` from the coarsest grid to the finest; they take all that was `kept`."""
    stages, above, last, kept = [], widths[0], len(widths) - 1, list(kept)
    for i, width in enumerate(widths):
        inputs = [above, *[width] * depth]
        blocks = [block(each + kept.pop(), width) for each in inputs]
        resize = None
        if i < last:
            resize = Double(width) if convolve[i] else block(width, width, resize="double")
        stages.append(Up(blocks, [attend(width) for _ in blocks if attention[i]], resize))
        above = width
    return nn.ModuleList(stages)
