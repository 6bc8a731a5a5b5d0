"""transformers' EnCodec with random configurations and weights, residual quantization in plain loops."""

import random
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.hub.encodec import from_config, published
from torchstone.parts.audio.codec import NeuralCodec
from torchstone.parts.facts import ParityCase
from torchstone.references import OutputAdapter, convert_inside
from torchstone.references.transformers import import_transformers
from torchstone.references.vqvae import PassThrough


def random_encodecs(count: int, seed: int = 0) -> Iterator[Any]:
    """transformers' EncodecModel, sampled with a fixed seed, causal and not in turn, in float64."""
    rng = random.Random(seed)
    for number in range(count):
        causal, ratios = number % 2 == 0, rng.choice([[2, 3], [3, 2], [4, 2], [5], [2, 2, 2]])
        rate = 100 * rng.randint(1, 4)
        frames = -(-rate // torch.tensor(ratios).prod().item())
        bits, books = rng.randint(2, 4), rng.randint(2, 5)
        per_book = frames * bits / 1000  # kbit/s
        # of one channel it takes away what the convolution adds, whose gradient then is rounding alone
        is_group_norm = number // 2 % 2 == 1
        config = import_transformers().EncodecConfig(
            audio_channels=2 if is_group_norm else rng.choice([1, 2]),
            sampling_rate=rate,
            hidden_size=rng.randint(3, 7),
            num_filters=2 * rng.randint(1 + is_group_norm, 3),
            num_residual_layers=rng.randint(1, 2),
            upsampling_ratios=ratios,
            norm_type="time_group_norm" if is_group_norm else "weight_norm",
            kernel_size=rng.choice([3, 5, 7]),
            last_kernel_size=rng.choice([3, 7]),
            residual_kernel_size=rng.choice([3, 5]),
            dilation_growth_rate=rng.choice([1, 2, 3]),
            use_causal_conv=causal,
            pad_mode=rng.choice(["reflect", "constant", "replicate"]),
            num_lstm_layers=rng.randint(1, 2),
            trim_right_ratio=rng.choice([1.0, 0.5]) if causal else 1.0,
            use_conv_shortcut=rng.random() < 0.5,
            codebook_size=2**bits,
            target_bandwidths=[per_book * n + 1e-9 for n in range(1, books + 1)],
        )
        torch.manual_seed(seed + number)
        model = import_transformers().EncodecModel(config).double().eval()
        for layer in model.quantizer.layers:
            layer.codebook.embed.normal_(std=0.5)
        yield model


def ours_of(model: Any) -> NeuralCodec:
    """Our codec with the config and weights of transformers'."""
    _, fields = from_config(model.config.to_dict())
    codec = NeuralCodec.from_kwargs(**fields).double()
    codec.load_state_dict(published("", model.state_dict()))
    return codec


class PlainEnCodec(nn.Module):
    """The training pass with transformers' encoder, decoder and codebooks: distances one by one, the gradient
    passed on by hand."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        z = self.model.encoder(waveforms)
        left, total = z, torch.zeros_like(z)
        commitment, chosen = z.new_zeros(()), []
        for layer in self.model.quantizer.layers:
            book = layer.codebook.embed
            entries = torch.empty_like(z)
            for b in range(len(z)):
                for t in range(z.shape[2]):
                    distances = (book - left[b, :, t].detach()).square().sum(1).tolist()
                    chosen.append(distances.index(min(distances)))
                    entries[b, :, t] = book[chosen[-1]]
            left, total = left - entries, total + entries
            commitment = commitment + left.square().mean()
        y = self.model.decoder(PassThrough.apply(z, total))[..., : waveforms.shape[-1]]
        codes = z.new_tensor(chosen).view(-1, len(z), z.shape[2]).transpose(0, 1)
        return y, codes, commitment, F.l1_loss(y, waveforms) + 0.25 * commitment


def ours_pass(codec: NeuralCodec, waveforms: Tensor) -> tuple[Tensor, ...]:
    y, _, found = codec(waveforms)
    loss = F.l1_loss(y, waveforms) + 0.25 * found.commitment_loss
    return y, found.codes.to(waveforms.dtype), found.commitment_loss, loss


def cases(count: int = 8) -> Iterator[ParityCase]:
    """Tiny codecs, causal and not, with either norm, all paddings, one and two channels."""
    for number, model in enumerate(random_encodecs(count)):
        config = model.config
        torch.manual_seed(100 + number)
        waveforms = torch.randn(2, config.audio_channels, 23 + number, dtype=torch.float64)
        codec = ours_of(model)
        label = (
            f"{'causal' if config.use_causal_conv else 'not causal'}, {config.norm_type}, {config.pad_mode}"
        )
        yield ParityCase(
            OutputAdapter(codec, ours_pass),
            PlainEnCodec(model),
            (waveforms,),
            names=convert_inside(lambda tensors: published("", tensors)),
            label=label,
        )
