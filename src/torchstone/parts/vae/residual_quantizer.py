"""Residual vector quantization: each codebook quantizes what the ones before it left over.

Neil Zeghidour, Alejandro Luebs, Ahmed Omran, Jan Skoglund and Marco Tagliasacchi, "SoundStream: An
End-to-End Neural Audio Codec", IEEE/ACM Transactions on Audio, Speech, and Language Processing 30, 2021,
arXiv:2107.03312, section III-C; Alexandre Défossez, Jade Copet, Gabriel Synnaeve and Yossi Adi, "High
Fidelity Neural Audio Compression", 2022, arXiv:2210.13438, section 3.2.

    r₁ = z;   k_q = argmin_j ‖r_q − e_{q,j}‖;   r_{q+1} = r_q − e_{q,k_q};   ẑ = Σ_q e_{q,k_q}
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.parts.kmeans import kmeans
from torchstone.parts.vae.vector_quantizer import VectorQuantizer, code_sums, perplexity

Vectors = Float[Tensor, "batch dim time"]
Codes = Int64[Tensor, "batch books time"]


class ResidualQuantized(NamedTuple):
    """What residual quantization makes of sequences of vectors.

    Args:
        vectors: the sums of the chosen entries; their gradient is that of the input.
        codes: which entries, of each codebook.
        commitment_loss: Σ_q E ‖r_q − sg e_q‖², per number, over the codebooks in use.
    """

    vectors: Vectors
    codes: Codes
    commitment_loss: Float[Tensor, ""]


class ResidualQuantizer(nn.Module):
    """`num_books` codebooks of `num_codes` entries of `dim` numbers, which follow their residuals by moving
    averages.

    Args:
        decay: γ of the moving averages.
        revive_below: an entry chosen less often than this fraction of the average of its codebook is put
            where a residual of the batch is.
    """

    def __init__(
        self, num_books: int, num_codes: int, dim: int, *, decay: float = 0.99, revive_below: float = 0.05
    ):
        super().__init__()
        if num_books < 1:
            raise BadInput(f"a residual quantizer has at least one codebook, not {num_books}")
        self.num_codes = num_codes
        self.books = nn.ModuleList(
            [VectorQuantizer(num_codes, dim, decay, revive_below) for _ in range(num_books)]
        )

    def quantizers(self, num_books: int | None = None) -> list[VectorQuantizer]:
        """The first `num_books` of them, by default all.

        Raises:
            BadInput: there are not so many.
        """
        if num_books is not None and not 1 <= num_books <= len(self.books):
            raise BadInput(f"there are from 1 to {len(self.books)} codebooks, not {num_books}")
        return [book for book in self.books[:num_books] if isinstance(book, VectorQuantizer)]

    def encode(self, z: Vectors, num_books: int | None = None) -> Codes:
        """The codes of the first `num_books` codebooks."""
        residual, codes = z.detach(), []
        for book in self.quantizers(num_books):
            rows = residual.movedim(1, -1)
            codes.append(book.nearest(rows.flatten(0, 1)).view(rows.shape[:2]))
            residual = residual - embed(book, codes[-1])
        return torch.stack(codes, 1)

    def decode(self, codes: Codes) -> Vectors:
        """The sums of the entries of codes, of as many codebooks as there are codes."""
        books = self.quantizers(codes.shape[1])
        return sum(
            (embed(book, codes[:, q]) for q, book in enumerate(books[1:], 1)), embed(books[0], codes[:, 0])
        )

    def residuals(self, z: Vectors, codes: Codes) -> list[Vectors]:
        """r₁ to r_Q, and what is left in the end."""
        left = [z]
        for q, book in enumerate(self.quantizers(codes.shape[1])):
            left.append(left[-1] - embed(book, codes[:, q]))
        return left

    def forward(self, z: Vectors, num_books: int | None = None) -> ResidualQuantized:
        codes = self.encode(z, num_books)
        # r_{q+1} is r_q − sg e_q: the commitment loss of each codebook is the mean square of what it leaves
        commitment = sum((r.square().mean() for r in self.residuals(z, codes)[1:]), z.new_zeros(()))
        passed = z + (self.decode(codes) - z).detach()  # straight through
        return ResidualQuantized(passed, codes, commitment)

    @torch.no_grad()
    def initialize(self, z: Vectors, generator: torch.Generator, iterations: int = 10) -> None:
        """Put the entries at the centers of k-means of their residuals (section III-C of SoundStream)."""
        residual = z
        for book in self.quantizers():
            rows = residual.movedim(1, -1).flatten(0, 1)
            found = kmeans(rows, self.num_codes, generator=generator, iterations=iterations)
            counts = torch.bincount(found.labels, minlength=self.num_codes).to(rows)
            book.codebook.copy_(found.centers)
            book.counts.copy_(counts)
            book.sums.copy_(found.centers * counts[:, None])
            residual = residual - embed(book, found.labels.view(len(z), -1))


def embed(book: VectorQuantizer, codes: Int64[Tensor, "batch time"]) -> Vectors:
    """The entries of one codebook."""
    return book.embed(codes[..., None])[..., 0]


class BookStatistics(NamedTuple):
    """Of the vectors of a batch: how many chose each entry of each codebook, and their sums."""

    chosen: Float[Tensor, "books codes"]
    totals: Float[Tensor, "books codes dim"]

    def perplexities(self) -> list[Float[Tensor, ""]]:
        """exp H of each codebook's use."""
        return [perplexity(each) for each in self.chosen]


@torch.no_grad()
def book_statistics(residuals: list[Vectors], codes: Codes, num_codes: int) -> BookStatistics:
    """What the codebooks' moving averages need.

    Args:
        residuals: those that each codebook quantized, in their order.
    """
    pairs = [
        code_sums(r[..., None], codes[:, q, :, None], num_codes)
        for q, r in enumerate(residuals[: codes.shape[1]])
    ]
    return BookStatistics(*(torch.stack(each) for each in zip(*pairs, strict=True)))
