"""The LSTM that early speech recognisers were made of: its gates see the cell, through peepholes.

Felix Gers, Nicol Schraudolph and Jürgen Schmidhuber, "Learning Precise Timing with LSTM Recurrent
Networks", Journal of Machine Learning Research 3, 2002, section 3; in both directions as in Graves
and Schmidhuber 2005.

    i = σ(W_i x + U_i h + p_i ∘ c + b_i)        h, c: of the moment before
    f = σ(W_f x + U_f h + p_f ∘ c + b_f)
    c′ = f ∘ c + i ∘ tanh(W_g x + U_g h + b_g)
    o = σ(W_o x + U_o h + p_o ∘ c′ + b_o)       it alone sees the new cell
    h′ = o ∘ tanh(c′)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class PeepholeLSTM(nn.Module):
    """One layer in both directions, the two outputs side by side: `width` is 2·hidden.

    A direction has 4·hidden·(inputs + hidden + 1) + 3·hidden weights: one bias a gate.
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.hidden, self.width = hidden, 2 * hidden
        for way in ("", "_reverse"):
            for name, shape in (
                ("weight_ih", (4 * hidden, inputs)),
                ("weight_hh", (4 * hidden, hidden)),
                ("bias", (4 * hidden,)),
                ("peephole", (3, hidden)),
            ):
                self.register_parameter(name + way, nn.Parameter(torch.empty(shape)))
        self.initialise()

    def initialise(self) -> None:
        """Evenly within ±0.1 (Graves et al. 2006, section 5.2)."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(
        self,
        x: Float[Tensor, "batch time inputs"],
        lengths: Int64[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Outputs of both directions; past a row's `lengths` they are 0."""
        moments = torch.arange(x.shape[1], device=x.device)
        there = None
        if lengths is not None:
            there = (moments[:, None] < lengths.to(x.device))[..., None]  # (time, batch, 1)
        ways = [self._read(x.transpose(0, 1), way, there) for way in ("", "_reverse")]
        return torch.cat(ways, -1).transpose(0, 1)

    def _read(self, x: Tensor, way: str, there: Tensor | None) -> Tensor:
        weight = getattr(self, f"weight_hh{way}")
        p_i, p_f, p_o = getattr(self, f"peephole{way}")
        sums = F.linear(x, getattr(self, f"weight_ih{way}"), getattr(self, f"bias{way}"))
        h = c = x.new_zeros(x.shape[1], self.hidden)
        outputs: list[Tensor] = []
        for t in reversed(range(len(x))) if way else range(len(x)):
            i, f, g, o = (sums[t] + F.linear(h, weight)).chunk(4, -1)
            new = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
            out = (o + p_o * new).sigmoid() * new.tanh()
            if there is not None:  # a row that has ended, or not yet begun, stands still
                out, new = out.where(there[t], h), new.where(there[t], c)
            h, c = out, new
            outputs.append(h)
        y = torch.stack(outputs[::-1] if way else outputs)
        return y if there is None else y * there
