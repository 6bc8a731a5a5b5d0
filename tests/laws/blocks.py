"""What networks are made of: where a check takes long, a few of them stand for all that share their blocks."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from torch import nn

Item = TypeVar("Item")

# what else of a layer decides which way its computation goes
SETTINGS = (
    *("kernel_size", "stride", "padding", "dilation", "ceil_mode", "affine", "track_running_stats"),
    *("batch_first", "bidirectional", "num_layers", "approximate", "norm_first"),
)


def blocks(model: nn.Module) -> set[Hashable]:
    """The kinds of layers in a network, each with its parent's kind, and with what is set but for its widths."""
    found: set[Hashable] = {type(model)}
    for module in model.modules():
        for name, child in module.named_children():
            settings = tuple(str(getattr(child, each)) for each in SETTINGS if hasattr(child, each))
            role = "" if name.isdigit() else name
            found.add((type(module), role, type(child), settings, _grouping(child)))
    return found


def _grouping(layer: Any) -> str:
    groups, inputs = getattr(layer, "groups", 1), getattr(layer, "in_channels", None)
    return "" if groups == 1 else "depthwise" if groups == inputs else "grouped"


def cover(
    items: Iterable[Item], elements: Callable[[Item], set[Hashable]], size: Callable[[Item], Any]
) -> list[Item]:
    """So many of the smallest items that each element is in one of them."""
    covered: set[Hashable] = set()
    chosen = []
    for item in sorted(items, key=size):
        if new := elements(item) - covered:
            covered |= new
            chosen.append(item)
    return chosen
