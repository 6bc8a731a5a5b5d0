"""Endless batches of whole pieces of music; the position is the full state."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.music.midi import KEYS, Frames
from torchstone.data.sampler import EpochSampler, itself, load_position, position_state, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator


def pad_pieces(
    pieces: Sequence[Frames],
) -> tuple[Float[Tensor, "pieces longest 88"], Int64[Tensor, " pieces"]]:
    """Pieces in one tensor, padded with silence, and their lengths."""
    lengths = torch.tensor([len(piece) for piece in pieces])
    return torch.nn.utils.rnn.pad_sequence([p.float() for p in pieces], True), lengths


class PieceBatches:
    """Endless (frames, lengths): float32 (share, longest, 88), 1 where a key sounds, and int64 (share,).

    Each epoch is a permutation fixed by `seed` and its number. With `transpose` each piece is transposed
    by up to so many semitones up or down, drawn by `seed` and position, as far as its keys allow.
    `batch_size` counts the pieces of all processes.
    """

    def __init__(
        self,
        pieces: Sequence[Frames],
        batch_size: int,
        *,
        seed: int,
        transpose: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch_size, rank, world_size)
        if not 0 <= transpose < KEYS:
            raise BadInput(f"transpose must be 0 semitones or more, not {transpose}")
        self.pieces, self.batch_size, self.seed = pieces, batch_size, seed
        self.transpose, self.device = transpose, device
        self.share = slice(first, first + share)
        self.order = EpochSampler(len(pieces), [(0, batch_size)], seed, torch.device("cpu"))
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> tuple[Float[Tensor, "share longest 88"], Int64[Tensor, " share"]]:
        batch = [self.pieces[i] for i in self.order.index(self.position).tolist()]
        generator = derive_generator(self.seed, SeedStream.AUGMENTATION, self.position)
        shifts = torch.rand(self.batch_size, generator=generator).tolist()
        if self.transpose:
            batch = [transpose_piece(p, self.transpose, u) for p, u in zip(batch, shifts, strict=True)]
        self.position += self.batch_size
        frames, lengths = pad_pieces(batch[self.share])
        return frames.to(self.device), lengths


def transpose_piece(piece: Frames, max_semitones: int, u: float) -> Frames:
    """A piece transposed by −max_semitones … max_semitones, as far as it stays on the keys; `u` in [0, 1)
    chooses the interval."""
    sounding = piece.any(0).nonzero().flatten()
    if not len(sounding):
        return piece
    low = max(-max_semitones, -int(sounding[0]))
    high = min(max_semitones, KEYS - 1 - int(sounding[-1]))
    return piece.roll(low + int(u * (high - low + 1)), 1)
