"""Vector quantization: each vector is replaced by the nearest entry of a codebook.

van den Oord, Vinyals and Kavukcuoglu 2017, arXiv:1711.00937. The choice has no gradient, so that of the
quantized vector is passed straight through to the vector itself. The codebook follows the vectors, by its own
loss (equation 3) or as the moving average of those that chose each entry (appendix A.1).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.errors import BadInput

EPSILON = 1e-5  # Laplace smoothing of the entries' counts


class Quantized(NamedTuple):
    """What quantization makes of a grid of vectors.

    Args:
        vectors: the chosen entries; their gradient is that of the vectors.
        codes: which entries.
        codebook_loss: E ‖sg z − e‖², per number, with which entries move to the vectors.
        commitment_loss: E ‖z − sg e‖², per number, with which vectors stay near their entries.
    """

    vectors: Float[Tensor, "batch dim height width"]
    codes: Int64[Tensor, "batch height width"]
    codebook_loss: Float[Tensor, ""]
    commitment_loss: Float[Tensor, ""]


class VectorQuantizer(nn.Module):
    """A codebook of `num_codes` entries of `dim` numbers.

    Args:
        decay: γ of the moving averages; None for a codebook that is a parameter, moved by its loss.
        revive_below: an entry chosen less often than this fraction of the average is put where a vector of
            the batch is. After the first update every entry is at one, or at the mean of those that chose it.
    """

    codebook: Float[Tensor, "codes dim"]
    counts: Float[Tensor, " codes"]
    sums: Float[Tensor, "codes dim"]

    def __init__(self, num_codes: int, dim: int, decay: float | None = 0.99, revive_below: float = 0.05):
        super().__init__()
        if min(num_codes, dim) < 1:
            raise BadInput(f"a codebook has at least one entry of one number, not {num_codes} of {dim}")
        if decay is not None and not 0 <= decay < 1:
            raise BadInput(f"the codebook's decay is at least 0 and below 1, not {decay}")
        if not 0 <= revive_below < 1:
            # from 1 on every entry would count as unused, were all chosen equally often
            raise BadInput(f"revive_below is a fraction of the average use, below 1, not {revive_below}")
        self.decay, self.revive_below = decay, revive_below
        entries = nn.init.uniform_(torch.empty(num_codes, dim), -1 / num_codes, 1 / num_codes)
        if decay is None:
            self.codebook = nn.Parameter(entries)
        else:
            self.register_buffer("codebook", entries)
            self.register_buffer("sums", torch.zeros(num_codes, dim))
        self.register_buffer("counts", torch.zeros(num_codes))

    def nearest(self, rows: Float[Tensor, "rows dim"]) -> Int64[Tensor, " rows"]:
        """The entry nearest to each row; the first of several."""
        # ‖z‖² is the same for all entries
        scores = torch.addmm(self.codebook.square().sum(1), rows, self.codebook.T, alpha=-2)
        return scores.argmin(1)

    def embed(self, codes: Int64[Tensor, "batch height width"]) -> Float[Tensor, "batch dim height width"]:
        """The entries of codes."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def forward(self, z: Float[Tensor, "batch dim height width"]) -> Quantized:
        codes = self.nearest(z.detach().movedim(1, -1).flatten(0, 2)).view(len(z), *z.shape[2:])
        entries = self.embed(codes)
        codebook_loss = F.mse_loss(entries, z.detach())
        commitment_loss = F.mse_loss(z, entries.detach())
        # z + (e − z) would be e but for rounding
        passed = z + (entries - z).detach()
        return Quantized(passed, codes, codebook_loss, commitment_loss)

    @torch.no_grad()
    def update(
        self,
        chosen: Float[Tensor, " codes"],
        totals: Float[Tensor, "codes dim"],
        candidates: Float[Tensor, "codes dim"],
    ) -> None:
        """Move the entries to the vectors of a batch, then put unused ones at candidates.

            N ← γ N + (1 − γ) n;   m ← γ m + (1 − γ) Σ z;   e = m / N

        Args:
            chosen: how many vectors of the joint batch chose each entry: n.
            totals: the sums of these: Σ z.
            candidates: a vector of the batch for each entry, which it moves to if it is unused.
        """
        if self.decay is None:
            self.counts.lerp_(chosen.to(self.counts.dtype), 0.01)
        else:
            self.counts.lerp_(chosen.to(self.counts.dtype), 1 - self.decay)
            self.sums.lerp_(totals.to(self.sums.dtype), 1 - self.decay)
            total = self.counts.sum()
            smoothed = (self.counts + EPSILON) / (total + len(self.counts) * EPSILON) * total
            self.codebook.copy_(self.sums / smoothed[:, None])
        average = self.counts.mean()
        # after the averages, which otherwise would move them back at once
        unused = self.counts < self.revive_below * average
        moved = torch.where(unused[:, None], candidates.to(self.codebook.dtype), self.codebook)
        self.codebook.copy_(moved)
        self.counts.copy_(torch.where(unused, average, self.counts))
        if self.decay is not None:
            self.sums.copy_(torch.where(unused[:, None], self.codebook * average, self.sums))


def code_sums(
    z: Float[Tensor, "batch dim height width"], codes: Int64[Tensor, "batch height width"], num_codes: int
) -> tuple[Float[Tensor, " codes"], Float[Tensor, "codes dim"]]:
    """How many vectors chose each entry, and the sums of these."""
    rows, index = z.detach().movedim(1, -1).flatten(0, 2), codes.flatten()
    # not bincount, which would wait for a GPU
    chosen = rows.new_zeros(num_codes).index_add_(0, index, torch.ones_like(rows[:, 0]))
    return chosen, rows.new_zeros(num_codes, rows.shape[1]).index_add_(0, index, rows)


def perplexity(chosen: Float[Tensor, " codes"]) -> Float[Tensor, ""]:
    """exp H of how often each entry was chosen: how many entries would be in use, were all used alike."""
    p = chosen.double() / chosen.sum()
    return torch.special.entr(p).sum().exp()
