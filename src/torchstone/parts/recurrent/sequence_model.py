"""A network of one kind of cell: symbols or vectors in, logits for each moment or for the whole out."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.parts.recurrent.layers import Cell, Recurrent, State


class SequenceModel(nn.Module):
    """Embedding (of symbols), recurrent layers, and one linear layer.

    Dropout is on all but the recurrent connections (Zaremba et al. 2014, arXiv:1409.2329, section
    3.1): on the embeddings, between layers, before the linear layer.

    Args:
        inputs: symbols there are, if `tokens`; else numbers in each vector.
        embedding: numbers a symbol, by default as many as `hidden`.
        pool: what is told: `each` moment; the whole, by the `last` state (each direction's own), or
            by the `mean` or `max` of all outputs.
        tied: the embedding is the linear layer too (Press & Wolf 2016, arXiv:1608.05859).

    `width` is what the linear layer reads; the other arguments are `Recurrent`'s.

    Raises:
        BadInput: tied, though nothing is embedded or the widths differ.
    """

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        outputs: int,
        *,
        tokens: bool,
        hidden: int,
        embedding: int | None = None,
        layers: int = 1,
        bidirectional: bool = False,
        combine: str = "concatenate",
        dropout: float = 0.0,
        projection: int = 0,
        pool: str = "each",
        tied: bool = False,
        path: str = "fast",
    ):
        super().__init__()
        if pool not in ("each", "last", "mean", "max"):
            raise BadInput(f"pool is each, last, mean or max, not {pool!r}")
        self.inputs, self.outputs, self.pool, self.dropout = inputs, outputs, pool, dropout
        width = (embedding or hidden) if tokens else inputs
        self.embedding = nn.Embedding(inputs, width) if tokens else None
        self.recurrent = Recurrent(
            cell, width, hidden, layers, bidirectional=bidirectional, combine=combine,
            dropout=dropout, projection=projection, path=path,
        )  # fmt: skip
        self.width = self.recurrent.width
        self.head = nn.Linear(self.width, outputs)
        if self.embedding is not None:
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if tied:
            if self.embedding is None or (inputs, width) != (outputs, self.width):
                raise BadInput(
                    f"an embedding of {inputs} × {width} cannot be the last layer of {outputs} × "
                    f"{self.width}: give embedding {self.width}, or not tied"
                )
            self.head.weight = self.embedding.weight

    def hidden(
        self,
        x: Int64[Tensor, "batch time"] | Float[Tensor, "batch time inputs"],
        lengths: Int64[Tensor, " batch"] | None = None,
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch time width"], State]:
        """What the linear layer is given at each moment, and each layer's state at the end."""
        if self.embedding is not None:
            x = F.dropout(self.embedding(x), self.dropout, self.training)
        return self.recurrent(x, lengths, state)

    def step(
        self,
        x: Int64[Tensor, "batch time"] | Float[Tensor, "batch time inputs"],
        state: State | None = None,
        lengths: Int64[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch time outputs"], State]:
        """Logits of each moment, going on from `state`, and the state to go on from."""
        y, state = self.hidden(x, lengths, state)
        return self.head(F.dropout(y, self.dropout, self.training)), state

    def forward(
        self,
        x: Int64[Tensor, "batch time"] | Float[Tensor, "batch time inputs"],
        lengths: Int64[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *time outputs"]:
        """Logits: of each moment (batch, time, outputs), or of the whole (batch, outputs)."""
        y, state = self.hidden(x, lengths)
        if self.pool != "each":
            y = self._pooled(y, lengths, state)
        return self.head(F.dropout(y, self.dropout, self.training))

    def logits(
        self,
        x: Int64[Tensor, "batch time"] | Float[Tensor, "batch time inputs"],
        mask: Bool[Tensor, "batch time"] | None = None,
        segments: Int64[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch *time outputs"]:
        """`forward` of rows that are framed and filled up as a transformer's are; what is filled up is
        at the end. The kinds of spans are not told apart."""
        return self(x, None if mask is None else mask.sum(1))

    def _pooled(self, y: Tensor, lengths: Tensor | None, state: State) -> Tensor:
        net = self.recurrent
        if self.pool == "last":
            ends = state[0][-len(net.ways) :]  # each direction's own end
            if net.combine == "concatenate":
                return torch.cat(list(ends), -1)
            return ends.sum(0) if net.combine == "sum" else ends.mean(0)
        if lengths is None:
            return y.mean(1) if self.pool == "mean" else y.amax(1)
        lengths = lengths.to(y.device)
        if self.pool == "mean":  # outputs past the end are 0
            return y.sum(1) / lengths[:, None].to(y.dtype)
        there = torch.arange(y.shape[1], device=y.device) < lengths[:, None]
        return y.masked_fill(~there[..., None], -torch.inf).amax(1)


@torch.no_grad()
def init_recurrent(net: Recurrent, how: str = "uniform", *, forget: float | None = None, moments: int = 2) -> None:
    """How weights begin, where not as torch's do.

    Args:
        how: `orthogonal` makes each gate's recurrent matrix a rotation, which neither shrinks nor
            grows what is carried (Saxe et al. 2013, arXiv:1312.6120); `chrono` biases an LSTM's
            forget gates so that units begin by remembering for any time up to `moments`, and their
            input gates against writing (Tallec & Ollivier 2018, arXiv:1804.11188, section 2).
        forget: what an LSTM's forget gates are biased to: at 1 they begin by remembering (Gers et al.
            2000; Jozefowicz et al. 2015, section 4.2).

    Raises:
        BadInput: an unknown way; gates, or square matrices, that the network has not.
    """
    if how not in ("uniform", "orthogonal", "chrono"):
        raise BadInput(f"weights start uniform, orthogonal or chrono, not {how!r}")
    if how == "orthogonal" and net.projection:
        raise BadInput("projected units have no square recurrent matrices to be orthogonal")
    gated = how == "chrono" or forget is not None
    if gated and (net.cell.states != 2 or not net.bias):
        raise BadInput(f"{net.cell.name} has no forget gate with a bias: no chrono, no `forget`")
    if how == "chrono" and (moments < 3 or forget is not None):
        raise BadInput("chrono needs 3 moments or more, and sets the forget gates itself")
    n = net.hidden
    for name, parameter in net.named_parameters():
        if name.startswith("weight_hh") and how == "orthogonal":
            for gate in parameter.chunk(net.cell.gates):
                nn.init.orthogonal_(gate)
        if gated and name.startswith("bias"):
            parameter[: 2 * n] = 0.0  # gates in the order i, f, g, o
        if name.startswith("bias_ih") and forget is not None:
            parameter[n : 2 * n] = forget
        if name.startswith("bias_ih") and how == "chrono":
            # b_f = log u, u even in [1, moments − 1];  b_i = −b_f
            parameter[n : 2 * n].uniform_(1, moments - 1).log_()
            parameter[:n] = -parameter[n : 2 * n]
