"""One moment of recurrent layers, for networks that read what they have just written."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from torchstone.parts.recurrent.layers import Recurrent, State

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
FUSED: dict[str, Any] = {"rnn": torch.rnn_tanh_cell, "lstm": torch.lstm_cell, "gru": torch.gru_cell}


def single_step(
    net: Recurrent, x: Float[Tensor, "batch inputs"], state: State
) -> tuple[Float[Tensor, "batch width"], State]:
    """What `net` makes of a sequence that is one moment long, without what a kernel for whole
    sequences costs before it starts.

    Args:
        net: read from the start alone, without projection.
        state: tensors (layers, batch, units), as `net` gives and takes them.
    """
    ends = []
    for layer in range(net.layers):
        before = tuple(each[layer] for each in state)
        weights: list[Any] = [getattr(net, f"{name}_l{layer}", None) for name in NAMES]
        if net.path == "fast":
            now = FUSED[net.cell.name](x, before if len(before) > 1 else before[0], *weights)
            now = now if len(before) > 1 else (now,)
        else:
            W, U, b, c = weights
            now = net.cell.step(F.linear(x, W, b), before, U, c)
        ends.append(now)
        x = now[0]
        if net.training and net.dropout and layer + 1 < net.layers:
            x = F.dropout(x, net.dropout)
    return x, tuple(torch.stack(each) for each in zip(*ends, strict=True))
