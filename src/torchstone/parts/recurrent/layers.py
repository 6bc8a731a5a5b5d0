"""Layers that read a sequence in time, over any cell: through torch's fused kernels or written out.

Parameters are those of `nn.RNN`, `nn.LSTM` and `nn.GRU`, drawn and named as theirs are, so that their
state dicts load: `weight_ih_l0` (gates·hidden, inputs), `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`,
`weight_hr_l0` (projection, hidden); `_reverse` for the direction from the end.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from torchstone.errors import BadInput

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]


class Cell(NamedTuple):
    """A recurrence: what becomes of a state at one moment.

    Args:
        gates: sums of `hidden` numbers each that a moment needs.
        step: (the input's share of the sums, already with its bias; state; recurrent weight; its
            bias) to the next state, whose first tensor is the output.
        fused: the same over all layers and the whole time at once (`torch.lstm`), if there is one.
        states: tensors in the state.
    """

    name: str
    gates: int
    step: Step
    fused: Callable[..., tuple[Tensor, ...]] | None = None
    states: int = 1


class Recurrent(nn.Module):
    """Layers of one cell, read from the start and, if `bidirectional`, from the end as well
    (Schuster & Paliwal 1997).

    Args:
        inputs: numbers a moment; `hidden`: units a layer and direction.
        combine: how the two directions' outputs are made one: `concatenate`, `sum` or `average`;
            between layers they always stand side by side, as in torch.
        dropout: share of numbers dropped between layers (not after the last).
        projection: width of the output, from `hidden` (Sak et al. 2014, arXiv:1402.1128); 0 for none.
        path: `fast` for the fused kernels, `written` for the equations.

    `width` is how many numbers a moment come out. With the same seed both paths drop the same
    numbers on the CPU.

    Raises:
        BadInput: `fast` for a cell without a kernel; a projection of a cell that has none; an unknown
            path or combination.
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
        path: str = "fast",
    ):
        super().__init__()
        if min(inputs, hidden, layers) < 1:
            raise BadInput(f"inputs, hidden and layers are at least 1: {inputs}, {hidden}, {layers}")
        if combine not in ("concatenate", "sum", "average"):
            raise BadInput(f"directions are combined by concatenate, sum or average, not {combine!r}")
        if path not in ("fast", "written"):
            raise BadInput(f"the path is fast or written, not {path!r}")
        if path == "fast" and cell.fused is None:
            raise BadInput(f"{cell.name} has no fused kernel: use the path `written`")
        if projection and (cell.states != 2 or not 0 < projection < hidden):
            raise BadInput(
                f"a projection is an LSTM's, and smaller than its {hidden} units, not {projection}"
            )
        self.cell, self.inputs, self.hidden, self.layers = cell, inputs, hidden, layers
        self.bidirectional, self.combine, self.dropout = bidirectional, combine, dropout
        self.projection, self.bias, self.path = projection, bias, path
        self.ways = ("", "_reverse") if bidirectional else ("",)
        self.out = projection or hidden
        self.width = self.out * (len(self.ways) if combine == "concatenate" else 1)
        rows = cell.gates * hidden
        for layer in range(layers):
            width = inputs if layer == 0 else self.out * len(self.ways)
            for way in self.ways:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width)}
                shapes |= {"weight_hh": (rows, self.out)}
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
                shapes |= {"weight_hr": (projection, hidden)} if projection else {}
                for name, shape in shapes.items():
                    parameter = nn.Parameter(torch.empty(shape))
                    self.register_parameter(f"{name}_l{layer}{way}", parameter)
        self.initialise()

    def initialise(self) -> None:
        """Evenly within ±1/√hidden, as torch does."""
        bound = 1 / math.sqrt(self.hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        x: Float[Tensor, "batch time inputs"],
        lengths: Int64[Tensor, " batch"] | None = None,
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], State]:
        """Outputs of the last layer, and each layer's state at the end.

        Args:
            lengths: moments that count in each row; the outputs after them are 0, and the state is
                the one at each row's own end.
            state: what to begin with, by default zeros: tensors (layers·directions, batch, units),
                as they come out.

        Raises:
            BadInput: a length of 0, or longer than `time`; inputs or states of another width.
        """
        if lengths is not None and not torch.compiler.is_compiling():
            lengths = lengths.cpu()
        state = self.empty(x) if state is None else state
        self._check(x, lengths, state)
        y, state = (self._fast if self.path == "fast" else self._written)(x, lengths, state)
        if self.bidirectional and self.combine != "concatenate":
            y = y.unflatten(-1, (2, self.out)).sum(-2)
            y = y / 2 if self.combine == "average" else y
        return y, state

    def empty(self, x: Tensor) -> State:
        """The state that `x` (batch, …) is read with from nothing: zeros of the weights' type."""
        return tuple(self.weight_ih_l0.new_zeros(shape) for shape in self._shapes(len(x)))  # ty: ignore

    def _shapes(self, batch: int) -> list[tuple[int, int, int]]:
        widths = (self.out, *[self.hidden] * (self.cell.states - 1))
        return [(self.layers * len(self.ways), batch, width) for width in widths]

    def _check(self, x: Tensor, lengths: Tensor | None, state: State) -> None:
        """The kernels read past the end of what is too short."""
        if x.shape[-1] != self.inputs:
            raise BadInput(f"vectors of {self.inputs} numbers are read, not of {x.shape[-1]}")
        shapes, wanted = [tuple(each.shape) for each in state], self._shapes(len(x))
        if shapes != wanted:
            raise BadInput(f"the state's shapes are {wanted}, not {shapes}")
        if lengths is None or torch.compiler.is_compiling():
            return
        if len(lengths) != len(x) or not 1 <= int(lengths.min()) <= int(lengths.max()) <= x.shape[1]:
            raise BadInput(f"lengths are 1 to {x.shape[1]}, not {lengths.min()} to {lengths.max()}")

    def _fast(self, x: Tensor, lengths: Tensor | None, state: State) -> tuple[Tensor, State]:
        assert self.cell.fused
        weights = list(self.parameters())
        how = (self.bias, self.layers, self.dropout, self.training, self.bidirectional)
        if lengths is None:
            y, *ends = self.cell.fused(x, _plain(state), weights, *how, True)
            return y, tuple(ends)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        data, sizes, order, back = packed
        assert order is not None
        assert back is not None
        begin = tuple(each.index_select(1, order) for each in state)
        data, *ends = self.cell.fused(data, sizes, _plain(begin), weights, *how)
        y, _ = pad_packed_sequence(packed._replace(data=data), True, total_length=x.shape[1])
        return y, tuple(each.index_select(1, back) for each in ends)

    def _written(self, x: Tensor, lengths: Tensor | None, state: State) -> tuple[Tensor, State]:
        there = None
        if lengths is not None:
            moments = torch.arange(x.shape[1], device=x.device)
            there = (moments[:, None] < lengths.to(x.device))[..., None]  # (time, batch, 1)
        x, ends = x.transpose(0, 1), []
        for layer in range(self.layers):
            outputs = []
            for way in self.ways:
                begin = tuple(each[len(ends)] for each in state)
                y, end = self._read(x, f"l{layer}{way}", begin, there)
                outputs.append(y)
                ends.append(end)
            x = torch.cat(outputs, -1)
            if self.training and self.dropout and layer + 1 < self.layers:
                x = self._dropped(x, lengths)
        return x.transpose(0, 1), tuple(torch.stack(each) for each in zip(*ends, strict=True))

    def _read(self, x: Tensor, name: str, state: State, there: Tensor | None) -> tuple[Tensor, State]:
        """One layer in one direction: outputs (time, batch, units) and the state at the end."""
        weight, bias = getattr(self, f"weight_hh_{name}"), getattr(self, f"bias_hh_{name}", None)
        project = getattr(self, f"weight_hr_{name}", None)
        sums = F.linear(x, getattr(self, f"weight_ih_{name}"), getattr(self, f"bias_ih_{name}", None))
        moments = range(len(x))
        outputs: list[Tensor] = []
        for t in reversed(moments) if name.endswith("_reverse") else moments:
            new = self.cell.step(sums[t], state, weight, bias)
            if project is not None:
                new = (F.linear(new[0], project), *new[1:])
            if there is not None:  # a row that has ended, or not yet begun, stands still
                new = tuple(torch.where(there[t], a, b) for a, b in zip(new, state, strict=True))
            state = new
            outputs.append(state[0])
        y = torch.stack(outputs[::-1] if name.endswith("_reverse") else outputs)
        return (y if there is None else y * there), state

    def _dropped(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Dropout drawn for those moments alone that there are, in the kernels' order."""
        if lengths is None:
            return F.dropout(x, self.dropout)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        packed = packed._replace(data=F.dropout(packed.data, self.dropout))
        return pad_packed_sequence(packed, total_length=len(x))[0]


def _plain(state: State) -> Tensor | State:
    """A state as the kernels take it: a tuple only where there is more than one tensor."""
    return state if len(state) > 1 else state[0]
