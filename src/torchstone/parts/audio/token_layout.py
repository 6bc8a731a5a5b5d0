"""Token numbers of a vocabulary joined of sections, and the codes of several codebooks as one sequence."""

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.errors import BadInput


class TokenLayout:
    """Sections of a vocabulary, one after another: `tokens` adds a section's offset, `ids` takes it away.

    Args:
        sizes: of each section, by name, in their order.
    """

    def __init__(self, **sizes: int):
        self.sizes, self.offsets, self.size = sizes, {}, 0
        for name, size in sizes.items():
            self.offsets[name] = self.size
            self.size += size

    def tokens(self, section: str, ids: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """The tokens of numbers within a section.

        Raises:
            BadInput: a number that the section does not have.
        """
        return self._checked(ids, section, "number", 0) + self.offsets[section]

    def ids(self, section: str, tokens: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
        """`tokens` undone.

        Raises:
            BadInput: a token of another section.
        """
        return self._checked(tokens, section, "token", self.offsets[section]) - self.offsets[section]

    def token(self, section: str, number: int = 0) -> int:
        """One of them."""
        return int(self.tokens(section, torch.tensor(number)))

    def span(self, section: str) -> tuple[int, int]:
        """The first token of a section, and the one after its last."""
        return self.offsets[section], self.offsets[section] + self.sizes[section]

    def sections(self) -> Int64[Tensor, " size"]:
        """The number of each token's section."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor([*self.sizes.values()]))

    def _checked(self, x: Tensor, section: str, kind: str, first: int) -> Tensor:
        size = self.sizes[section]
        if x.numel() and not first <= int(x.min()) <= int(x.max()) < first + size:
            wrong = int(x.min()) if int(x.min()) < first else int(x.max())
            raise BadInput(f"{section} has the {kind}s {first} to {first + size - 1}, not {wrong}")
        return x


def interleave(
    layout: TokenLayout, section: str, codes: Int64[Tensor, "books frames"]
) -> Int64[Tensor, " books_times_frames"]:
    """Codes as tokens, frame by frame, within a frame book by book; the section of book q is `section`q."""
    rows = [layout.tokens(f"{section}{q}", row) for q, row in enumerate(codes)]
    return torch.stack(rows, 1).flatten()


def deinterleave(
    layout: TokenLayout, section: str, tokens: Int64[Tensor, " books_times_frames"], books: int
) -> Int64[Tensor, "books frames"]:
    """`interleave` undone.

    Raises:
        BadInput: a token of another book than its position is of; a frame that is not whole.
    """
    if len(tokens) % books:
        raise BadInput(f"{len(tokens)} tokens are no whole frames of {books}")
    columns = tokens.view(-1, books).unbind(1)
    return torch.stack([layout.ids(f"{section}{q}", column) for q, column in enumerate(columns)])
