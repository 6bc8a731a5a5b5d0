"""Reference implementations that our networks are compared with: other libraries, and naive code.

Systems import them inside `reference()` only: `pip install torchstone[test]` brings the libraries.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

StateDict = dict[str, Tensor]


class OutputAdapter(nn.Module):
    """A network with its output converted to plain tensors: `call(network, *inputs)`.

    The names of its parameters begin with `model.`; checks print the name of the network's class.
    """

    def __init__(self, model: nn.Module, call: Callable[..., Any]):
        super().__init__()
        self.model, self.call, self.__name__ = model, call, type(model).__name__

    def forward(self, *inputs: Any) -> Any:
        return self.call(self.model, *inputs)


def unwrap_names(convert: Callable[[str, StateDict], StateDict]) -> Callable[[StateDict], StateDict]:
    """From the parameter names of an `OutputAdapter` around a library's network to those of our bare one.

    Args:
        convert: a system's `published`: (variant, named tensors) -> named tensors.
    """
    return lambda tensors: convert("", {n.removeprefix("model."): t for n, t in tensors.items()})


def convert_inside(convert: Callable[[StateDict], StateDict]) -> Callable[[StateDict], StateDict]:
    """The same for two networks that are both in an `OutputAdapter`: the prefix `model.` stays."""

    def inside(tensors: StateDict) -> StateDict:
        inner = convert({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
        return {f"model.{name}": tensor for name, tensor in inner.items()}

    return inside


@torch.no_grad()
def randomize_weights(
    network: nn.Module,
    std: float | None = None,
    *,
    add: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Give `network` random parameters, so that no layer is hidden by its initialization.

    As created, biases are zero, norms are one, and some branches or couplings compute nothing: a fault
    in them would not be visible.

    Args:
        std: standard deviation of every parameter; by default 1/√fan-in with mean zero for weights, and
            mean 0.5 with deviation 1 for biases, so that every layer matters and none saturates.
        add: add the noise to the parameters instead of replacing them (needs `std`).
        generator: random numbers for `add`.
    """
    for weight in network.parameters():
        if std is None:
            nn.init.normal_(weight, 0.0 if weight.ndim > 1 else 0.5, weight[0].numel() ** -0.5)
        elif add:
            weight += std * torch.randn(weight.shape, generator=generator).to(weight)
        else:
            nn.init.normal_(weight, std=std)
    return network
