"""Stacked, optionally bidirectional recurrent layers over any cell: torch's fused kernels, or the equations.

Parameters are named and initialized like those of `nn.RNN`, `nn.LSTM` and `nn.GRU`, so that their state
dicts load: `weight_ih_l0` (gates·hidden, inputs), `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`,
`weight_hr_l0` (projection, hidden); the suffix `_reverse` marks the backward direction.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torchstone.errors import BadInput

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]

# torch's kernels of one time step, by the cell's name, and the parameters they take
STEP_KERNELS: dict[str, Any] = {"rnn": torch.rnn_tanh_cell, "lstm": torch.lstm_cell, "gru": torch.gru_cell}
STEP_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(NamedTuple):
    """A recurrence: the equations of one time step.

    Args:
        gates: pre-activations of `hidden` units each that a time step computes.
        step: (input pre-activations W x + b, state, recurrent weight, recurrent bias) to the next state,
            whose first tensor is the output.
        fused: the kernel over all layers and time steps at once (`torch.lstm`), if there is one.
        states: number of tensors in the state.
    """

    name: str
    gates: int
    step: Step
    fused: Callable[..., tuple[Tensor, ...]] | None = None
    states: int = 1


class Recurrent(nn.Module):
    """Stacked layers of one cell; bidirectional on request (Schuster & Paliwal 1997).

    Args:
        inputs: input features; `hidden`: units per layer and direction.
        combine: how the outputs of the two directions are combined: `concatenate`, `sum` or `average`;
            between layers they are always concatenated, as in torch.
        dropout: dropout probability between layers (not after the last).
        projection: output size of a projected LSTM (Sak et al. 2014, arXiv:1402.1128); 0 for none.
        implementation: `fused` for torch's kernels, `reference` for the cell's equations.

    `width` is the number of output features. With the same seed both implementations drop the same
    activations on the CPU.

    Raises:
        BadInput: `fused` for a cell without a kernel; a projection of a cell that has none; an unknown
            implementation or combination.
    """

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        hidden: int,
        layers: int = 1,
        *,
        bidirectional: bool = False,
        combine: str = "concatenate",
        dropout: float = 0.0,
        projection: int = 0,
        bias: bool = True,
        implementation: str = "fused",
    ):
        super().__init__()
        if min(inputs, hidden, layers) < 1:
            raise BadInput(f"inputs, hidden and layers must be at least 1: {inputs}, {hidden}, {layers}")
        if combine not in ("concatenate", "sum", "average"):
            raise BadInput(f"combine must be concatenate, sum or average, not {combine!r}")
        if implementation not in ("fused", "reference"):
            raise BadInput(f"implementation must be fused or reference, not {implementation!r}")
        if implementation == "fused" and cell.fused is None:
            raise BadInput(f"{cell.name} has no fused kernel: use implementation reference")
        if projection and (cell.states != 2 or not 0 < projection < hidden):
            raise BadInput(
                f"a projection needs an LSTM, and must be smaller than its {hidden} units, not {projection}"
            )
        self.cell, self.inputs, self.hidden, self.layers = cell, inputs, hidden, layers
        self.bidirectional, self.combine, self.dropout = bidirectional, combine, dropout
        self.projection, self.bias, self.implementation = projection, bias, implementation
        self.directions = ("", "_reverse") if bidirectional else ("",)
        self.out = projection or hidden  # output features of one direction
        self.width = self.out * (len(self.directions) if combine == "concatenate" else 1)
        rows = cell.gates * hidden
        for layer in range(layers):
            width = inputs if layer == 0 else self.out * len(self.directions)
            for direction in self.directions:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width)}
                shapes |= {"weight_hh": (rows, self.out)}
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
                shapes |= {"weight_hr": (projection, hidden)} if projection else {}
                for name, shape in shapes.items():
                    parameter = nn.Parameter(torch.empty(shape))
                    self.register_parameter(f"{name}_l{layer}{direction}", parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/√hidden, as in torch."""
        bound = 1 / math.sqrt(self.hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        x: Float[Tensor, "batch time inputs"],
        lengths: Int64[Tensor, " batch"] | None = None,
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], State]:
        """Outputs of the last layer, and each layer's final state.

        Args:
            lengths: valid time steps of each row; outputs after them are 0, and the final state is the
                one at the row's own end.
            state: initial state, by default zeros: tensors (layers·directions, batch, units), as they
                are returned.

        Raises:
            BadInput: a length of 0, or longer than `time`; inputs or states of another width.
        """
        if lengths is not None and not torch.compiler.is_compiling():
            lengths = lengths.cpu()
        state = self.empty(x) if state is None else state
        self._check(x, lengths, state)
        run = self._fused if self.implementation == "fused" else self._reference
        y, state = run(x, lengths, state)
        if self.bidirectional and self.combine != "concatenate":
            y = y.unflatten(-1, (2, self.out)).sum(-2)
            y = y / 2 if self.combine == "average" else y
        return y, state

    def empty(self, x: Tensor) -> State:
        """The initial state of `x` (batch, …): zeros of the weights' type."""
        return tuple(self.weight_ih_l0.new_zeros(shape) for shape in self._shapes(len(x)))  # ty: ignore

    def _shapes(self, batch: int) -> list[tuple[int, int, int]]:
        widths = (self.out, *[self.hidden] * (self.cell.states - 1))
        return [(self.layers * len(self.directions), batch, width) for width in widths]

    def _check(self, x: Tensor, lengths: Tensor | None, state: State) -> None:
        """Shapes and lengths; the kernels would read past the end of a tensor that is too short."""
        if x.shape[-1] != self.inputs:
            raise BadInput(f"expected vectors of {self.inputs} numbers, not of {x.shape[-1]}")
        shapes, expected = [tuple(each.shape) for each in state], self._shapes(len(x))
        if shapes != expected:
            raise BadInput(f"the state's shapes are {expected}, not {shapes}")
        if lengths is None or torch.compiler.is_compiling():
            return
        if len(lengths) != len(x) or not 1 <= int(lengths.min()) <= int(lengths.max()) <= x.shape[1]:
            raise BadInput(f"lengths must be 1 to {x.shape[1]}, not {lengths.min()} to {lengths.max()}")

    def _fused(self, x: Tensor, lengths: Tensor | None, state: State) -> tuple[Tensor, State]:
        assert self.cell.fused
        weights = list(self.parameters())
        options = (self.bias, self.layers, self.dropout, self.training, self.bidirectional)
        if lengths is None:
            y, *final = self.cell.fused(x, _kernel_state(state), weights, *options, True)
            return y, tuple(final)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        data, sizes, order, inverse = packed
        assert order is not None
        assert inverse is not None
        initial = tuple(each.index_select(1, order) for each in state)
        data, *final = self.cell.fused(data, sizes, _kernel_state(initial), weights, *options)
        y, _ = pad_packed_sequence(packed._replace(data=data), True, total_length=x.shape[1])
        return y, tuple(each.index_select(1, inverse) for each in final)

    def _reference(self, x: Tensor, lengths: Tensor | None, state: State) -> tuple[Tensor, State]:
        valid = None
        if lengths is not None:
            time_steps = torch.arange(x.shape[1], device=x.device)
            valid = (time_steps[:, None] < lengths.to(x.device))[..., None]  # (time, batch, 1)
        x, finals = x.transpose(0, 1), []
        for layer in range(self.layers):
            outputs = []
            for direction in self.directions:
                initial = tuple(each[len(finals)] for each in state)
                y, final = self._one_direction(x, f"l{layer}{direction}", initial, valid)
                outputs.append(y)
                finals.append(final)
            x = torch.cat(outputs, -1)
            if self.training and self.dropout and layer + 1 < self.layers:
                x = self._dropout_between_layers(x, lengths)
        return x.transpose(0, 1), tuple(torch.stack(each) for each in zip(*finals, strict=True))

    def _one_direction(
        self, x: Tensor, name: str, state: State, valid: Tensor | None
    ) -> tuple[Tensor, State]:
        """One layer in one direction: outputs (time, batch, units) and the final state."""
        weight, bias = getattr(self, f"weight_hh_{name}"), getattr(self, f"bias_hh_{name}", None)
        projection = getattr(self, f"weight_hr_{name}", None)
        # W x + b of all time steps at once
        sums = F.linear(x, getattr(self, f"weight_ih_{name}"), getattr(self, f"bias_ih_{name}", None))
        time_steps = range(len(x))
        outputs: list[Tensor] = []
        for t in reversed(time_steps) if name.endswith("_reverse") else time_steps:
            new = self.cell.step(sums[t], state, weight, bias)
            if projection is not None:
                new = (F.linear(new[0], projection), *new[1:])
            if valid is not None:  # outside a row's own length its state does not change
                new = tuple(torch.where(valid[t], a, b) for a, b in zip(new, state, strict=True))
            state = new
            outputs.append(state[0])
        y = torch.stack(outputs[::-1] if name.endswith("_reverse") else outputs)
        return (y if valid is None else y * valid), state

    def _dropout_between_layers(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Dropout whose masks are drawn for valid time steps only, in the order of the kernels."""
        if lengths is None:
            return F.dropout(x, self.dropout)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        packed = packed._replace(data=F.dropout(packed.data, self.dropout))
        return pad_packed_sequence(packed, total_length=len(x))[0]


def single_step(
    net: Recurrent, x: Float[Tensor, "batch inputs"], state: State
) -> tuple[Float[Tensor, "batch width"], State]:
    """`net` on a sequence of one time step, for decoders that read their own output.

    It calls a cell's kernel, without the start-up cost of the kernels for whole sequences.

    Args:
        net: unidirectional, without projection.
        state: tensors (layers, batch, units), as `net` takes and returns them.
    """
    finals = []
    for layer in range(net.layers):
        before = tuple(each[layer] for each in state)
        weights: list[Any] = [getattr(net, f"{name}_l{layer}", None) for name in STEP_WEIGHTS]
        if net.implementation == "fused":
            after = STEP_KERNELS[net.cell.name](x, _kernel_state(before), *weights)
            after = after if len(before) > 1 else (after,)
        else:
            W, U, b, c = weights
            after = net.cell.step(F.linear(x, W, b), before, U, c)
        finals.append(after)
        x = after[0]
        if net.training and net.dropout and layer + 1 < net.layers:
            x = F.dropout(x, net.dropout)
    return x, tuple(torch.stack(each) for each in zip(*finals, strict=True))


def _kernel_state(state: State) -> Tensor | State:
    """A state as the kernels take it: a tuple only where there is more than one tensor."""
    return state if len(state) > 1 else state[0]
