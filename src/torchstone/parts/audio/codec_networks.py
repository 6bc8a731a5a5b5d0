"""Encoders and decoders of neural audio codecs: at the rate of samples (SEANet), and of frames (Vocos).

**SEANet**: a convolutional encoder and decoder.
Marco Tagliasacchi, Yunpeng Li, Karolis Misiunas and Dominik Roblek, "SEANet: A Multi-modal Speech Enhancement
Network", Interspeech 2020, arXiv:2009.02095, in the form of Alexandre Défossez, Jade Copet, Gabriel Synnaeve
and Yossi Adi, "High Fidelity Neural Audio Compression" (EnCodec), 2022, arXiv:2210.13438, section 3.1.

    encoder   convolution;  per ratio: residual blocks, ELU, convolution of stride s and kernel 2s, twice the
              channels;  LSTM with a skip;  ELU;  convolution
    decoder   convolution;  LSTM with a skip;  per ratio: ELU, transposed convolution of stride s, half the
              channels, residual blocks;  ELU;  convolution
    residual  shortcut(x) + 1 × 1 (ELU (k × 1 (ELU x))), half the channels in between

A causal network pads on the left only. With `pad_mode` constant no output depends on later samples; with
reflect, as published, the first outputs do, since what is reflected comes after them.

**Frames**: from a short-time Fourier transform and back to one.
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

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import power_spectrogram

Signal = Float[Tensor, "batch channels time"]
Filtered = Float[Tensor, "batch _ _"]  # of other channels or length
NORMS = ("weight_norm", "time_group_norm")
PAD_MODES = ("reflect", "constant", "replicate")


@dataclass(frozen=True)
class SEANetConfig:
    """The architecture of an encoder and a decoder.

    Args:
        channels: of the sound.
        dim: numbers of a vector of the encoder's output.
        filters: channels at the full sample rate; doubled by each ratio.
        ratios: of the decoder's transposed convolutions; the encoder has them in reverse.
        residual_layers: residual blocks per ratio; block j has the dilation `dilation_growth`^j.
        compress: by how much a residual block narrows its channels.
        conv_shortcut: the shortcut of a residual block is a convolution.
        trim_right_ratio: of a causal transposed convolution's surplus, the fraction that is cut off on the
            right.
    """

    channels: int = 1
    dim: int = 128
    filters: int = 32
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    residual_layers: int = 1
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth: int = 2
    compress: int = 2
    conv_shortcut: bool = True
    lstm_layers: int = 2
    norm: str = "weight_norm"
    causal: bool = True
    pad_mode: str = "reflect"
    trim_right_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS or self.pad_mode not in PAD_MODES:
            raise BadInput(
                f"norms are {' and '.join(NORMS)}, paddings {', '.join(PAD_MODES)}, not {self.norm} and "
                f"{self.pad_mode}"
            )
        if not self.causal and self.trim_right_ratio != 1.0:
            raise BadInput(f"trim_right_ratio {self.trim_right_ratio} is for causal convolutions: use 1")
        if not self.ratios or min(self.ratios) < 1:
            raise BadInput(f"strides are at least one number of at least 1, not {self.ratios}")

    @property
    def hop(self) -> int:
        """Samples of one vector."""
        return math.prod(self.ratios)


def pad_signal(x: Signal, left: int, right: int, mode: str) -> Filtered:
    """Samples before and after a signal. One shorter than its reflection is padded with zeros for that."""
    if mode != "reflect":
        return F.pad(x, (left, right), mode)
    short = max(0, max(left, right) - x.shape[-1] + 1)
    padded = F.pad(F.pad(x, (0, short)), (left, right), mode)
    return padded[..., : padded.shape[-1] - short]


class PaddedConv(nn.Module):
    """A convolution whose output has ⌈time / stride⌉ samples."""

    def __init__(
        self, config: SEANetConfig, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1
    ):
        super().__init__()
        conv = nn.Conv1d(inputs, outputs, size, stride, dilation=dilation)
        is_weight_norm = config.norm == "weight_norm"
        self.conv = weight_norm(conv) if is_weight_norm else conv
        self.norm = nn.Identity() if is_weight_norm else nn.GroupNorm(1, outputs)
        self.causal, self.mode, self.stride = config.causal, config.pad_mode, stride
        self.reach = (size - 1) * dilation + 1  # of the kernel

    def forward(self, x: Signal) -> Filtered:
        surplus = self.reach - self.stride
        extra = -x.shape[-1] % self.stride  # so that the last output sees a whole kernel
        right = 0 if self.causal else surplus // 2
        return self.norm(self.conv(pad_signal(x, surplus - right, right + extra, self.mode)))


class PaddedConvTranspose(nn.Module):
    """A transposed convolution of kernel 2·stride, whose output has time · stride samples."""

    def __init__(self, config: SEANetConfig, inputs: int, outputs: int, stride: int):
        super().__init__()
        conv = nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride)
        is_weight_norm = config.norm == "weight_norm"
        self.conv = weight_norm(conv) if is_weight_norm else conv
        self.norm = nn.Identity() if is_weight_norm else nn.GroupNorm(1, outputs)
        # the kernel's surplus over the stride is the stride
        self.right = math.ceil(stride * config.trim_right_ratio) if config.causal else stride // 2
        self.left = stride - self.right

    def forward(self, x: Signal) -> Filtered:
        y = self.norm(self.conv(x))
        return y[..., self.left : y.shape[-1] - self.right]


class SkipLSTM(nn.Module):
    """x + LSTM(x), over time."""

    def __init__(self, dim: int, layers: int):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, layers)

    def forward(self, x: Signal) -> Signal:
        h = x.permute(2, 0, 1)
        return (self.lstm(h)[0] + h).permute(1, 2, 0)


class ResidualBlock(nn.Module):
    """shortcut(x) + 1 × 1 (ELU (k × 1 (ELU x)))."""

    def __init__(self, config: SEANetConfig, dim: int, dilation: int):
        super().__init__()
        inner = dim // config.compress
        self.block = nn.Sequential(
            nn.ELU(),
            PaddedConv(config, dim, inner, config.residual_kernel_size, dilation=dilation),
            nn.ELU(),
            PaddedConv(config, inner, dim, 1),
        )
        self.shortcut = PaddedConv(config, dim, dim, 1) if config.conv_shortcut else nn.Identity()

    def forward(self, x: Signal) -> Signal:
        return self.shortcut(x) + self.block(x)


def residual_blocks(config: SEANetConfig, dim: int) -> Sequence[nn.Module]:
    return [ResidualBlock(config, dim, config.dilation_growth**j) for j in range(config.residual_layers)]


class SEANetEncoder(nn.Module):
    """A vector of `dim` numbers for each `hop` samples, the last padded."""

    def __init__(self, config: SEANetConfig):
        super().__init__()
        width = config.filters
        layers: list[nn.Module] = [PaddedConv(config, config.channels, width, config.kernel_size)]
        for ratio in reversed(config.ratios):
            layers += [*residual_blocks(config, width), nn.ELU()]
            layers.append(PaddedConv(config, width, 2 * width, 2 * ratio, ratio))
            width *= 2
        layers += [SkipLSTM(width, config.lstm_layers), nn.ELU()]
        self.layers = nn.Sequential(*layers, PaddedConv(config, width, config.dim, config.last_kernel_size))

    def forward(self, x: Signal) -> Float[Tensor, "batch dim frames"]:
        return self.layers(x)


class SEANetDecoder(nn.Module):
    """`hop` samples for each vector."""

    def __init__(self, config: SEANetConfig):
        super().__init__()
        width = config.filters * 2 ** len(config.ratios)
        layers: list[nn.Module] = [PaddedConv(config, config.dim, width, config.kernel_size)]
        layers.append(SkipLSTM(width, config.lstm_layers))
        for ratio in config.ratios:
            layers += [nn.ELU(), PaddedConvTranspose(config, width, width // 2, ratio)]
            width //= 2
            layers += residual_blocks(config, width)
        layers += [nn.ELU(), PaddedConv(config, width, config.channels, config.last_kernel_size)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "batch dim frames"]) -> Filtered:
        return self.layers(z)


# ---- frames

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


def pad_frames(
    x: Float[Tensor, "batch samples"], window: int, hop: int
) -> Float[Tensor, "batch padded_samples"]:
    """Silence around a sound, so that a window is centered on each hop; the last hop is filled up."""
    surplus = window - hop
    return F.pad(x, (surplus // 2, surplus - surplus // 2 + -x.shape[-1] % hop))


def overlap_frames(frames: Float[Tensor, "batch frames window"], hop: int) -> Float[Tensor, "batch samples"]:
    """The sound whose windowed frames are nearest to these, in squares: undoes `pad_frames` and windows."""
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
        window, hop = self.config.window, self.config.hop
        power = power_spectrogram(pad_frames(x[:, 0], window, hop), window, hop, window) / window
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
