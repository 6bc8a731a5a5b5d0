"""Encoder and decoder that work at the rate of frames: from a short-time Fourier transform and back to one.

The decoder: Hubert Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders for
high-quality audio synthesis", 2023, arXiv:2306.00814: blocks of ConvNeXt at one width, no upsampling, then
logarithms of magnitudes and phases of each frame, which the inverse transform turns into a sound. The encoder
here is its mirror image.

    encoder   log(|STFT|² + ε);  convolution, LayerNorm;  blocks;  LayerNorm;  dim
    decoder   convolution, LayerNorm;  blocks;  LayerNorm;  m, p of each bin;  x = ISTFT(e^m · e^{ip})
    block     x + γ ∘ W₂ gelu(W₁ LayerNorm(depthwise convolution(x)))

Frame t is centered on the middle of the `hop` samples that it stands for. Its window covers several hops, so
that overlapping frames have to agree on their phases. Of a sound's own phases the encoder hears nothing. No
code is spent on them, and the decoder finds some that fit together, so that a waveform is not followed. Costs
are those of a hundred frames a second, not of thousands of samples.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.errors import BadInput

Frames = Float[Tensor, "batch frames width"]
LEAST_POWER = 1e-5  # ε, added to power before the logarithm
LOG_SCALE = 4.0  # what logarithms of power are divided by, for numbers of about one
LARGEST_LOG = 5.0  # of a magnitude: e⁵ is far above what sounds of full scale have


@dataclass(frozen=True)
class VocosConfig:
    """The architecture of an encoder and a decoder of frames.

    Args:
        dim: numbers of a vector of the encoder's output.
        hop: samples of one vector.
        hops: that a window covers.
        width: channels of the blocks; `inner` within them.
        encoder_blocks, decoder_blocks: how many.
        taps: of the blocks' depthwise convolutions, in frames.
    """

    dim: int = 32
    hop: int = 80
    hops: int = 4
    width: int = 128
    inner: int = 256
    encoder_blocks: int = 2
    decoder_blocks: int = 5
    taps: int = 7

    def __post_init__(self) -> None:
        if self.hop < 1 or self.hops < 2 or self.hop * (self.hops - 1) % 2:
            raise BadInput(
                f"windows of at least two hops, whose surplus has two halves, not {self.hops} of {self.hop}"
            )

    @property
    def channels(self) -> int:
        """Of the sound."""
        return 1

    @property
    def window(self) -> int:
        """Samples of a window."""
        return self.hop * self.hops

    @property
    def bins(self) -> int:
        """Frequencies of a window's spectrum."""
        return self.window // 2 + 1


def short_time_frames(
    x: Float[Tensor, "batch samples"], window: int, hop: int
) -> Float[Tensor, "batch frames window"]:
    """Windowed frames, one every `hop` samples; the last hop is filled up with silence."""
    surplus = window - hop
    padded = F.pad(x, (surplus // 2, surplus - surplus // 2 + -x.shape[-1] % hop))
    return padded.unfold(-1, window, hop) * torch.hann_window(window, dtype=x.dtype, device=x.device)


def overlap_frames(frames: Float[Tensor, "batch frames window"], hop: int) -> Float[Tensor, "batch samples"]:
    """The sound whose windowed frames are nearest to these, in squares: `short_time_frames` undone."""
    count, window = frames.shape[1:]
    hann = torch.hann_window(window, dtype=frames.dtype, device=frames.device)
    total = (count - 1) * hop + window

    def added(rows: Tensor) -> Tensor:
        return F.fold(rows.transpose(1, 2), (1, total), (1, window), stride=(1, hop))[:, 0, 0]

    weights = added(hann.square().expand(1, count, window))
    first = (window - hop) // 2
    span = slice(first, first + count * hop)
    return added(frames * hann)[:, span] / weights[:, span].clamp(min=1e-3)


class FrameBlock(nn.Module):
    """x + γ ∘ W₂ gelu(W₁ LayerNorm(depthwise convolution(x))), over frames."""

    def __init__(self, config: VocosConfig, scale: float):
        super().__init__()
        width = config.width
        self.conv = nn.Conv1d(width, width, config.taps, padding="same", groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, config.inner), nn.Linear(config.inner, width)
        self.gamma = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Frames) -> Frames:
        h = self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2))
        return x + self.gamma * self.narrow(F.gelu(self.widen(h)))


class FrameNetwork(nn.Module):
    """Convolution, LayerNorm, blocks, LayerNorm, linear layer."""

    def __init__(self, config: VocosConfig, inputs: int, outputs: int, blocks: int):
        super().__init__()
        self.first = nn.Conv1d(inputs, config.width, 3, padding="same")
        self.first_norm, self.last_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        # all blocks together begin at the size of one
        self.blocks = nn.ModuleList([FrameBlock(config, 1 / max(1, blocks)) for _ in range(blocks)])
        self.last = nn.Linear(config.width, outputs)

    def forward(self, x: Float[Tensor, "batch frames inputs"]) -> Float[Tensor, "batch frames outputs"]:
        x = self.first_norm(self.first(x.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return self.last(self.last_norm(x))


class FrameEncoder(nn.Module):
    """A vector of `dim` numbers for each `hop` samples, the last padded."""

    def __init__(self, config: VocosConfig):
        super().__init__()
        self.config = config
        self.network = FrameNetwork(config, config.bins, config.dim, config.encoder_blocks)

    def forward(self, x: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim frames"]:
        frames = short_time_frames(x[:, 0], self.config.window, self.config.hop)
        spectrum = torch.fft.rfft(frames)
        power = (spectrum.real.square() + spectrum.imag.square()) / self.config.window
        return self.network((power + LEAST_POWER).log() / LOG_SCALE).transpose(1, 2)


class VocosDecoder(nn.Module):
    """`hop` samples for each vector."""

    def __init__(self, config: VocosConfig):
        super().__init__()
        self.config = config
        self.network = FrameNetwork(config, config.dim, 2 * config.bins, config.decoder_blocks)

    def forward(self, z: Float[Tensor, "batch dim frames"]) -> Float[Tensor, "batch 1 samples"]:
        log_magnitude, phase = self.network(z.transpose(1, 2)).chunk(2, -1)
        spectrum = torch.polar(log_magnitude.clamp(max=LARGEST_LOG).exp(), phase)
        frames = torch.fft.irfft(spectrum, self.config.window)
        return overlap_frames(frames, self.config.hop)[:, None]
