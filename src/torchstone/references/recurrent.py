"""torch's own recurrent modules, which our cells and layers are compared with."""

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torchstone.parts.facts import ParityCase
from torchstone.parts.recurrent.layers import Recurrent
from torchstone.references import OutputAdapter


def recurrent_cases(cell: Any, theirs: type[nn.Module]) -> Iterator[ParityCase]:
    """A cell in both implementations and torch's own module, sampled with a fixed seed: numbers of layers,
    directions, sequence lengths, dropout (with equal masks), projections, with biases and without."""
    rng = random.Random(0)
    for number in range(12):
        layers, bidirectional = rng.randint(1, 3), number % 2 == 1
        inputs, hidden, time = rng.randint(1, 6), rng.randint(3, 8), rng.randint(2, 12)
        options: dict[str, Any] = {"bidirectional": bidirectional, "bias": number % 5 > 0}
        options["dropout"] = 0.4 if layers > 1 and number % 3 else 0.0
        project = rng.randint(1, hidden - 1) if cell.states == 2 and number % 4 > 1 else 0
        implementation = "reference" if number % 3 else "fused"
        torch.manual_seed(number)
        ours = Recurrent(
            cell, inputs, hidden, layers, projection=project, implementation=implementation, **options
        )
        proj_size = {"proj_size": project} if project else {}
        net = theirs(inputs, hidden, layers, batch_first=True, **options, **proj_size)
        net.load_state_dict(ours.state_dict())
        x = torch.randn(4, time, inputs)
        lengths = (torch.randint(1, time + 1, (4,)),) if number % 4 else ()
        adapter = OutputAdapter(net, _padded_output)
        if number < 8:
            x, ours, adapter = x.double(), ours.double(), adapter.double()
        label = f"{implementation}, {layers} layers, {'bidirectional' if bidirectional else 'unidirectional'}"
        label += f"{', lengths' if lengths else ''}{', dropout' if options['dropout'] else ''}"
        yield ParityCase(ours, adapter, (x, *lengths), label=label + (", projection" if project else ""))


def _padded_output(net: nn.Module, x: Tensor, lengths: Tensor | None = None) -> tuple:
    """A torch module's padded output sequences, and its final state as a tuple."""
    if lengths is None:
        y, state = net(x)
    else:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state = net(packed)
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    return y, state if isinstance(state, tuple) else (state,)
