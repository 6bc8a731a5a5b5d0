"""Batches of whole pieces of music, without end; their whole state is how many were drawn."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.music.midi import KEYS, Frames
from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed


def pad_pieces(
    pieces: Sequence[Frames],
) -> tuple[Float[Tensor, "pieces longest 88"], Int64[Tensor, " pieces"]]:
    """Pieces side by side, silence after the shorter ones; and their lengths."""
    lengths = torch.tensor([len(piece) for piece in pieces])
    return torch.nn.utils.rnn.pad_sequence([p.float() for p in pieces], True), lengths


class PieceBatches:
    """Endless (frames, lengths): float32 (share, longest, 88), 1 where a key sounds, and int64 (share,).

    Each epoch is a permutation fixed by `seed` and its number. With `transpose` each piece is moved by
    as many semitones up or down, or fewer, drawn by `seed` and position, as its keys allow. `batch`
    counts the pieces of all `world` processes; the state is how many were drawn.
    """

    def __init__(
        self,
        pieces: Sequence[Frames],
        batch: int,
        *,
        seed: int,
        transpose: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch, rank, world_size)
        if not 0 <= transpose < KEYS:
            raise BadInput(f"pieces are moved by 0 semitones or more, not {transpose}")
        self.pieces, self.batch, self.seed = pieces, batch, seed
        self.transpose, self.device = transpose, device
        self.share = slice(first, first + share)
        self.order = EpochSampler(len(pieces), [(0, batch)], seed, torch.device("cpu"))
        self.position = 0

    def __iter__(self) -> "Pieces":
        return self

    def __next__(self) -> tuple[Float[Tensor, "share longest 88"], Int64[Tensor, " share"]]:
        chosen = [self.pieces[i] for i in self.order.index(self.position).tolist()]
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, SeedStream.AUGMENTATION, self.position)
        )
        moves = torch.rand(self.batch, generator=generator).tolist()
        if self.transpose:
            chosen = [transpose_piece(p, self.transpose, at) for p, at in zip(chosen, moves, strict=True)]
        self.position += self.batch
        frames, lengths = pad_pieces(chosen[self.share])
        return frames.to(self.device), lengths

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


def transpose_piece(piece: Frames, most: int, at: float) -> Frames:
    """A piece moved by −most … most semitones, as far as it stays on the keys; `at` in [0, 1) says how far."""
    sounding = piece.any(0).nonzero().flatten()
    if not len(sounding):
        return piece
    low, high = max(-most, -int(sounding[0])), min(most, KEYS - 1 - int(sounding[-1]))
    return piece.roll(low + int(at * (high - low + 1)), 1)
