"""Recurrent sequence model: tokens or vectors in, logits of each time step or of the whole sequence out."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.parts.recurrent.layers import Cell, Recurrent, State

POOLS = ("each", "last", "mean", "max")


@dataclass(frozen=True)
class SequenceModelConfig:
    """The architecture of a `SequenceModel`. In a recipe, None leaves a field to the variant."""

    hidden: int | None = None  # hidden units per layer and direction
    layers: int | None = None  # stacked recurrent layers
    bidirectional: bool | None = None  # read in both directions
    implementation: Literal["fused", "reference"] | None = None  # torch's kernels or the cell's equations
    embedding: int | None = None  # embedding dimension of tokens, none for the hidden units
    combine: Literal["concatenate", "sum", "average"] = "concatenate"  # combination of the two directions
    projection: int = 0  # LSTM projection size, 0 for none
    tie_weights: bool = False  # tie the output layer to the embedding
    dropout: float = 0.0  # dropout probability, on all but the recurrent connections


class SequenceModel(nn.Module):
    """Embedding (of tokens), recurrent layers, and a linear output layer.

    Dropout is on all but the recurrent connections (Zaremba et al. 2014, arXiv:1409.2329, section
    3.1): on the embeddings, between layers, before the output layer.

    Args:
        inputs: vocabulary size, if `tokens`; else features of each input vector.
        pool: what the logits are of: `each` time step; or the whole sequence, from the `last` state
            (each direction's own), or from the `mean` or `max` of all outputs.
        skip: time steps of vectors that a linear layer maps to the logits of the whole sequence too; it
            begins at zero (Das et al. 2023, arXiv:2304.08424, section 4.3: the global residual connection).
        options: the fields of `SequenceModelConfig`. With `tie_weights` the embedding is the output
            layer too (Press & Wolf 2016, arXiv:1608.05859).

    `width` is the number of features that the output layer reads.

    Raises:
        BadInput: tied weights without an embedding, or of different widths; options that do not go together.
    """

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        outputs: int,
        *,
        tokens: bool,
        pool: str = "each",
        skip: int = 0,
        **options: Any,
    ):
        super().__init__()
        if skip and (tokens or pool == "each"):
            raise BadInput("a linear skip connection goes from vectors to the output of a whole sequence")
        if pool not in POOLS:
            raise BadInput(f"pool must be each, last, mean or max, not {pool!r}")
        config = SequenceModelConfig(**options)
        if config.hidden is None:
            raise BadInput("the number of hidden units is missing: give hidden")
        self.inputs, self.outputs, self.pool, self.dropout = inputs, outputs, pool, config.dropout
        width = (config.embedding or config.hidden) if tokens else inputs
        self.embedding = nn.Embedding(inputs, width) if tokens else None
        self.recurrent = Recurrent(
            cell,
            width,
            config.hidden,
            1 if config.layers is None else config.layers,
            bidirectional=bool(config.bidirectional),
            combine=config.combine,
            dropout=config.dropout,
            projection=config.projection,
            implementation=config.implementation or "fused",
        )
        self.width = self.recurrent.width
        self.head = nn.Linear(self.width, outputs)
        self.skip = nn.Linear(skip * inputs, outputs) if skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)
            nn.init.zeros_(self.skip.bias)
        if self.embedding is not None:
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if config.tie_weights:
            if self.embedding is None or (inputs, width) != (outputs, self.width):
                raise BadInput(
                    f"an embedding of {inputs} × {width} cannot be tied to an output layer of {outputs} × "
                    f"{self.width}: set embedding to {self.width}, or leave out tie_weights"
                )
            self.head.weight = self.embedding.weight

    def features(
        self,
        x: Int64[Tensor, "batch time"] | Float[Tensor, "batch time inputs"],
        lengths: Int64[Tensor, " batch"] | None = None,
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], State]:
        """The output layer's input at each time step, and each layer's final state."""
        if self.embedding is not None:
            x = F.dropout(self.embedding(x), self.dropout, self.training)
        return self.recurrent(x, lengths, state)

    def step(
        self,
        x: Int64[Tensor, "batch time"] | Float[Tensor, "batch time inputs"],
        state: State | None = None,
        lengths: Int64[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch time outputs"], State]:
        """Logits of each time step, continuing from `state`, and the state to continue from."""
        y, state = self.features(x, lengths, state)
        return self.head(F.dropout(y, self.dropout, self.training)), state

    def forward(
        self,
        x: Int64[Tensor, "batch time"] | Float[Tensor, "batch time inputs"],
        lengths: Int64[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *time outputs"]:
        """Logits: of each time step (batch, time, outputs), or of the whole (batch, outputs)."""
        y, state = self.features(x, lengths)
        if self.pool != "each":
            y = self._pool(y, lengths, state)
        logits = self.head(F.dropout(y, self.dropout, self.training))
        return logits if self.skip is None else logits + self.skip(x.flatten(1))

    def logits(
        self,
        x: Int64[Tensor, "batch time"] | Float[Tensor, "batch time inputs"],
        mask: Bool[Tensor, "batch time"] | None = None,
        segments: Int64[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch *time outputs"]:
        """`forward` of rows as a transformer takes them, padded at the end; segments are ignored."""
        return self(x, None if mask is None else mask.sum(1))

    def _pool(self, y: Tensor, lengths: Tensor | None, state: State) -> Tensor:
        net = self.recurrent
        if self.pool == "last":
            ends = state[0][-len(net.directions) :]  # each direction's own end
            if net.combine == "concatenate":
                return torch.cat(list(ends), -1)
            return ends.sum(0) if net.combine == "sum" else ends.mean(0)
        if lengths is None:
            return y.mean(1) if self.pool == "mean" else y.amax(1)
        lengths = lengths.to(y.device)
        if self.pool == "mean":  # outputs past the end are 0
            return y.sum(1) / lengths[:, None].to(y.dtype)
        valid = torch.arange(y.shape[1], device=y.device) < lengths[:, None]
        return y.masked_fill(~valid[..., None], -torch.inf).amax(1)


@torch.no_grad()
def init_recurrent(
    net: Recurrent, init: str = "uniform", *, forget_bias: float | None = None, time_steps: int = 2
) -> None:
    """Initialize recurrent weights otherwise than torch does.

    Args:
        init: `orthogonal` makes each gate's recurrent matrix a rotation, which neither shrinks nor
            grows the state (Saxe et al. 2013, arXiv:1312.6120); `chrono` biases an LSTM's forget gates
            so that units begin with memories of up to `time_steps`, and their input gates against
            writing (Tallec & Ollivier 2018, arXiv:1804.11188, section 2).
        forget_bias: bias of an LSTM's forget gates: with 1 they begin open (Gers et al. 2000;
            Jozefowicz et al. 2015, section 4.2).

    Raises:
        BadInput: an unknown initialization; gates, or square matrices, that the network lacks.
    """
    if init not in ("uniform", "orthogonal", "chrono"):
        raise BadInput(f"recurrent_init must be uniform, orthogonal or chrono, not {init!r}")
    if init == "orthogonal" and net.projection:
        raise BadInput("a projected LSTM has no square recurrent matrices to be orthogonal")
    gated = init == "chrono" or forget_bias is not None
    if gated and (net.cell.states != 2 or not net.bias):
        raise BadInput(f"{net.cell.name} has no forget gate with a bias: no chrono, no forget_bias")
    if init == "chrono" and (time_steps < 3 or forget_bias is not None):
        raise BadInput("chrono needs 3 time steps or more, and sets the forget bias itself")
    n = net.hidden
    for name, parameter in net.named_parameters():
        if name.startswith("weight_hh") and init == "orthogonal":
            for gate in parameter.chunk(net.cell.gates):
                nn.init.orthogonal_(gate)
        if gated and name.startswith("bias"):
            parameter[: 2 * n] = 0.0  # gates in the order i, f, g, o
        if name.startswith("bias_ih") and forget_bias is not None:
            parameter[n : 2 * n] = forget_bias
        if name.startswith("bias_ih") and init == "chrono":
            # b_f = log u, u uniform in [1, T − 1];  b_i = −b_f
            parameter[n : 2 * n].uniform_(1, time_steps - 1).log_()
            parameter[:n] = -parameter[n : 2 * n]
