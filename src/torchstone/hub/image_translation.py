"""Generators of CycleGAN and pix2pix as their authors publish them (`latest_net_G.pth`): from those names to
ours.

Their networks are nested sequences, whose numbers count layers without weights too: padding, dropout. A
network with dropout therefore has other numbers than one without. Files of before PyTorch 0.4.1 also hold
statistics of instance norm that it never used: these are dropped, and nothing else.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from torchstone.errors import BadInput

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# of a residual block, whose second convolution comes after padding, and after dropout where it has it
BLOCK = {
    False: {1: "conv1", 2: "norm1", 5: "conv2", 6: "norm2"},
    True: {1: "conv1", 2: "norm1", 6: "conv2", 7: "norm2"},
}


def resnet_generator(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet generator's tensors by our names.

    Raises:
        BadInput: a name that such a network does not have.
    """
    tensors = without_unused_statistics(tensors)
    paths = {name: _numbers(name) for name in tensors}
    layers = [path[0] for path in paths.values() if len(path) == 1]
    if not layers or any(len(path) > 2 for path in paths.values()):
        raise BadInput(f"{_first(tensors)} is no tensor of a ResNet generator")
    last = max(layers)
    has_dropout = not any(path[1:] == [5] for path in paths.values())  # which then is padding
    named = {}
    for name, path in paths.items():
        end = name.rpartition(".")[2]
        if len(path) == 1:  # the first layer pads, and the one before the last
            named[f"layers.{path[0] - (2 if path[0] == last else 1)}.{end}"] = tensors[name]
        elif path[1] in BLOCK[has_dropout]:
            named[f"layers.{path[0] - 1}.{BLOCK[has_dropout][path[1]]}.{end}"] = tensors[name]
        else:
            raise BadInput(f"{name} is no tensor of a ResNet generator")
    return named


def unet_generator(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A U-Net generator's tensors by our names. Each level is a sequence inside the one before.

    Raises:
        BadInput: a name that such a network does not have.
    """
    tensors = without_unused_statistics(tensors)
    paths = {name: _numbers(name) for name in tensors}
    depth = max(map(len, paths.values()), default=0)
    outer = {0: ("down", 0), 3: ("up", 0)}
    middle = {1: ("down", 0), 2: ("down", 1), 5: ("up", 0), 6: ("up", 1)}
    inner = {1: ("down", 0), 3: ("up", 0), 4: ("up", 1)}
    named = {}
    for name, path in paths.items():
        level = len(path) - 1
        known = outer if level == 0 else inner if level == depth - 1 else middle
        if depth < 2 or not path or path[-1] not in known:
            raise BadInput(f"{name} is no tensor of a U-Net generator")
        side, layer = known[path[-1]]
        number = level if side == "down" else depth - 1 - level
        named[f"{side}.{number}.{layer}.{name.rpartition('.')[2]}"] = tensors[name]
    return named


def without_unused_statistics(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the running statistics of norms that have no weights, those of instance norm."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] not in STATISTICS or f"{name.rpartition('.')[0]}.weight" in tensors
    }


def _numbers(name: str) -> list[int]:
    """The numbers of the layers on the way to a tensor."""
    return [int(number) for number in re.findall(r"(?<![^.])\d+(?=\.)", name)]


def _first(names: Iterable[str]) -> str:
    return next(iter(names), "an empty file")
