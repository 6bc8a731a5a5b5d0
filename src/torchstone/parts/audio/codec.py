"""A neural audio codec: encoder, residual vector quantization, decoder.

EnCodec (Défossez et al. 2022, arXiv:2210.13438) after SoundStream (Zeghidour et al. 2021, arXiv:2107.03312).
"""

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from torchstone.errors import BadInput
from torchstone.parts.audio.codec_networks import (
    FrameEncoder,
    SEANetConfig,
    SEANetDecoder,
    SEANetEncoder,
    VocosConfig,
    VocosDecoder,
)
from torchstone.parts.vae.residual_quantizer import ResidualQuantized, ResidualQuantizer

Waveforms = Float[Tensor, "batch channels samples"]
Codes = Int64[Tensor, "batch books frames"]
SILENCE = 1e-8  # added to a level that is divided by


@dataclass(frozen=True)
class CodecConfig:
    """A codec.

    Args:
        network: of encoder and decoder, at the rate of samples or of frames.
        sample_rate: in Hz.
        bandwidths: in kbit/s, at which it may be used; the last one uses all codebooks.
        normalize: divide a sound by its level, the root mean square of its mean channel.
        chunk_seconds, overlap: a long sound is coded in chunks of so many seconds, of which this fraction
            overlaps with the next one; None for the whole sound at once.
        decay, revive_below: of the codebooks.
    """

    network: SEANetConfig | VocosConfig = SEANetConfig()
    sample_rate: int = 24_000
    num_books: int = 32
    num_codes: int = 1024
    bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    normalize: bool = False
    chunk_seconds: float | None = None
    overlap: float | None = None
    decay: float = 0.99
    revive_below: float = 0.05

    @property
    def frame_rate(self) -> int:
        """Vectors of a second, rounded up."""
        return math.ceil(self.sample_rate / self.network.hop)

    def books_at(self, bandwidth: float) -> int:
        """Codebooks that fit into `bandwidth` kbit/s.

        Raises:
            BadInput: it is none of the codec's.
        """
        if bandwidth not in self.bandwidths:
            known = ", ".join(f"{each:g}" for each in self.bandwidths)
            raise BadInput(f"the codec's bandwidths are {known} kbit/s, not {bandwidth:g}")
        bits = math.log2(self.num_codes) * self.frame_rate  # a second, of one codebook
        return max(1, math.floor(bandwidth * 1000 / bits))


class Encoded(NamedTuple):
    """A coded sound: the codes of its chunks, their levels, and its length.

    Args:
        scales: what chunks are multiplied by, one per row; None where nothing is normalized.
        samples: of the sound, before the last chunk was padded.
    """

    codes: list[Int64[Tensor, "batch books _"]]
    scales: list[Float[Tensor, " batch"]] | None
    samples: int


class CodecOutput(NamedTuple):
    """A reconstruction, the encoder's vectors, and what quantization made of them."""

    reconstruction: Waveforms
    z: Float[Tensor, "batch dim frames"]
    quantized: ResidualQuantized


class NeuralCodec(nn.Module):
    """Encoder, codebooks and decoder."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = encoder_and_decoder(config.network)
        self.quantizer = ResidualQuantizer(
            config.num_books,
            config.num_codes,
            config.network.dim,
            decay=config.decay,
            revive_below=config.revive_below,
        )
        if isinstance(config.network, SEANetConfig):
            self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Convolutions from N(0, 1 / inputs of an output), biases at 0: torch's own lets the signal fade away
        in so many layers, and hundreds of updates pass before a waveform is followed."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) and layer.bias is not None:
                taps = layer.kernel_size[0] / (
                    layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1
                )
                weight = torch.randn_like(layer.weight) / math.sqrt(layer.in_channels * taps)
                if is_parametrized(layer, "weight"):
                    layer.weight = weight
                else:
                    layer.weight.copy_(weight)
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> "NeuralCodec":
        """A codec from the fields of `CodecConfig` and of `SEANetConfig`, or with `hop` of `VocosConfig`. The
        first has no name in common with the others."""
        kind = VocosConfig if "hop" in kwargs else SEANetConfig
        network = {each.name for each in fields(kind)}
        # JSON has lists only
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in kwargs.items()}
        inner = {name: value for name, value in values.items() if name in network}
        outer = {name: value for name, value in values.items() if name not in network}
        return cls(CodecConfig(kind(**inner), **outer))

    def forward(self, waveforms: Waveforms, num_books: int | None = None) -> CodecOutput:
        """A pass for training: gradients go straight through the quantizer."""
        z = self.encoder(waveforms)
        found = self.quantizer(z, num_books)
        return CodecOutput(self.decoder(found.vectors)[..., : waveforms.shape[-1]], z, found)

    def encode_frames(self, waveforms: Waveforms, num_books: int | None = None) -> Codes:
        """The codes of whole sounds, without chunks and levels."""
        return self.quantizer.encode(self.encoder(waveforms), num_books)

    def decode_frames(self, codes: Codes) -> Waveforms:
        """Sounds of `hop` samples a code."""
        return self.decoder(self.quantizer.decode(codes))

    def encode(self, waveforms: Waveforms, num_books: int | None = None) -> Encoded:
        """A sound as codes, chunk by chunk."""
        samples = waveforms.shape[-1]
        length, stride = self.chunk_samples(samples)
        codes, scales = [], []
        for first in range(0, samples, stride):
            chunk = waveforms[..., first : first + length]
            if self.config.normalize:
                scales.append(chunk.mean(1).square().mean(-1).sqrt() + SILENCE)
                chunk = chunk / scales[-1][:, None, None]
            codes.append(self.encode_frames(chunk, num_books))
        return Encoded(codes, scales if self.config.normalize else None, samples)

    def decode(self, encoded: Encoded) -> Waveforms:
        """A sound of its codes; where chunks overlap, they are faded into each other."""
        _, stride = self.chunk_samples(encoded.samples)
        chunks = [self.decode_frames(each) for each in encoded.codes]
        if encoded.scales is not None:
            chunks = [x * scale[:, None, None] for x, scale in zip(chunks, encoded.scales, strict=True)]
        joined = chunks[0] if self.config.chunk_seconds is None else overlap_add(chunks, stride)
        return joined[..., : encoded.samples]

    def chunk_samples(self, samples: int) -> tuple[int, int]:
        """Length of a chunk, and from one to the next."""
        if self.config.chunk_seconds is None:
            return samples, samples
        length = int(self.config.chunk_seconds * self.config.sample_rate)
        return length, max(1, int((1 - (self.config.overlap or 0.0)) * length))


def encoder_and_decoder(network: SEANetConfig | VocosConfig) -> tuple[nn.Module, nn.Module]:
    if isinstance(network, VocosConfig):
        return FrameEncoder(network), VocosDecoder(network)
    return SEANetEncoder(network), SEANetDecoder(network)


def overlap_add(
    chunks: list[Float[Tensor, "batch channels _"]], stride: int
) -> Float[Tensor, "batch channels _"]:
    """Chunks, one every `stride` samples, weighted by a triangle over their length and divided by the sum of
    the weights."""
    total = stride * (len(chunks) - 1) + chunks[-1].shape[-1]
    time = torch.linspace(0, 1, chunks[0].shape[-1] + 2, dtype=chunks[0].dtype, device=chunks[0].device)[1:-1]
    triangle = 0.5 - (time - 0.5).abs()
    out = chunks[0].new_zeros(*chunks[0].shape[:-1], total)
    weights = out.new_zeros(total)
    for number, chunk in enumerate(chunks):
        span = slice(number * stride, number * stride + chunk.shape[-1])
        out[..., span] += triangle[: chunk.shape[-1]] * chunk
        weights[span] += triangle[: chunk.shape[-1]]
    return out / weights
