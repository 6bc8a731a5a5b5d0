"""Training of a neural audio codec, and how near its reconstructions are."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from torchstone.data.audio.codec_batches import WaveBatch, WaveBatches
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.parts.audio.codec import CodecOutput, NeuralCodec
from torchstone.parts.modes import eval_mode
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.parts.vae.residual_quantizer import BookStatistics, book_statistics
from torchstone.tasks.optimization import gradient_update, train_only

Wave = Float[Tensor, " _"]  # of any length: one signature has several
LEAST_POWER = 1e-12  # so that silence has a ratio
WHOLE_SOUND = 4.0  # work of a whole sound by itself, in crops of training
INITIAL = -1  # the draw that k-means begins with, which no batch has


def signal_to_noise(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """10 log₁₀ (Σ x² / Σ (x − y)²), in dB."""
    signal, noise = x.square().sum(), (x - y).square().sum()
    return 10 * torch.log10((signal + LEAST_POWER) / (noise + LEAST_POWER))


def pad_to_multiple(wave: Wave, size: int) -> Wave:
    """A sound with silence after it, up to a multiple of `size` samples."""
    return F.pad(wave, (0, -len(wave) % size))


def train_codec(
    model: Any,
    recipe: Any,
    waveforms: Sequence[Wave],
    val: Sequence[Wave],
    loss: Callable[[Tensor, CodecOutput, Any], dict[str, Tensor]],
    metadata: dict[str, Any],
) -> Run:
    """A Run that trains `model.codec`: encoder, codebooks and decoder.

    Of the recipe: steps, batch_size, crop_seconds, optim, seed. Metrics: `loss` and its terms,
    `code_perplexity/N` of each codebook, `residual_error/N`, what the first N leave of the vectors' power,
    and the `snr` of reconstructions in dB.

    Args:
        loss: (waveforms, CodecOutput, recipe) -> metrics with the `loss` to minimize.
    """
    codec: NeuralCodec = model.codec
    device = next(model.parameters()).device
    collected: list[tuple[Tensor, Tensor]] = []

    def objective(net: Any, batch: WaveBatch) -> dict[str, Tensor]:
        output = net(batch.waveforms)
        collected.append((output.z.detach(), output.quantized.codes))
        return loss(batch.waveforms, output, recipe)

    train_only(model, codec)
    step, state, _ = gradient_update(
        model,
        dataclasses.replace(recipe.optim, ema_decay=0.0),  # the codebooks follow the encoder itself
        objective,
        steps=recipe.steps,
        parameters=list(codec.parameters()),
        forward_module=codec,
    )
    stream = state["stream"] = WaveBatches(
        waveforms,
        codec.config.network.hop * max(1, round(recipe.crop_seconds * codec.config.frame_rate)),
        recipe.batch_size,
        books=codec.config.num_books,
        codes=codec.config.num_codes,
        seed=recipe.seed,
        device=device,
        **parallel.share(),
    )

    def update(batch: WaveBatch) -> dict[str, Tensor]:
        if not bool(codec.quantizer.quantizers()[0].counts.any()):  # the first
            with torch.no_grad():
                z = parallel.gather_rows(codec.encoder(batch.waveforms))
            generator = derive_generator(recipe.seed, SeedStream.CODEBOOK, INITIAL)
            codec.quantizer.initialize(z, generator)
        collected.clear()
        metrics = step(batch)
        z, codes = (torch.cat(each) for each in zip(*collected, strict=True))
        return metrics | update_codebooks(codec, z, codes, batch.candidates)

    def evaluate() -> dict[str, float]:
        return codec_metrics(codec, val, loss, recipe)

    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        best_metric=None,  # encoder, codebooks and decoder belong together: the last ones
        # whole sounds, one by one
        examples=Examples(
            recipe.batch_size, len(waveforms), len(val), "sounds", evaluation=WHOLE_SOUND * len(val)
        ),
        state=state,
        steps=recipe.steps,
        metadata=metadata,
    )


@torch.no_grad()
def update_codebooks(
    codec: NeuralCodec,
    z: Float[Tensor, "batch dim frames"],
    codes: Tensor,
    candidates: Float[Tensor, "books codes"],
) -> dict[str, Tensor]:
    """Move the codebooks to the residuals of a batch; their perplexities, and what they leave over.

    Args:
        candidates: numbers on 0..1, which residual an unused entry is put at.
    """
    left = codec.quantizer.residuals(z, codes)  # of the codebooks as they were when they chose
    found = book_statistics(left, codes, codec.config.num_codes)
    # every process moves its copy by the joint batch
    chosen, totals = (parallel.gather_rows(each[None]).sum(0) for each in found)
    for q, book in enumerate(codec.quantizer.quantizers()):
        rows = left[q].movedim(1, -1).flatten(0, 1)
        own = rows[(candidates[q] * len(rows)).long().clamp(max=len(rows) - 1)]
        book.update(chosen[q], totals[q], parallel.gather_rows(own[None])[0])
    power = left[0].square().mean()
    metrics = {
        f"code_perplexity/{q}": each
        for q, each in enumerate(BookStatistics(chosen, totals).perplexities(), 1)
    }
    return metrics | {f"residual_error/{q}": r.square().mean() / power for q, r in enumerate(left[1:], 1)}


@torch.no_grad()
def codec_metrics(
    codec: NeuralCodec, waveforms: Sequence[Wave], loss: Callable[..., dict[str, Tensor]], recipe: Any
) -> dict[str, float]:
    """The loss and its terms, means over whole sounds; `snr`, `residual_error/N` and `code_perplexity/N`."""
    device, sums, chosen = next(codec.parameters()).device, {}, torch.zeros(0)
    size = codec.config.network.hop
    with eval_mode(codec):
        for wave in waveforms:
            x = pad_to_multiple(wave, size)[None, None].to(device)
            output = codec(x)
            left = codec.quantizer.residuals(output.z, output.quantized.codes)
            counts = book_statistics(left, output.quantized.codes, codec.config.num_codes).chosen
            chosen = counts if not len(chosen) else chosen + counts
            power = left[0].square().mean()
            terms = {name: float(value) for name, value in loss(x, output, recipe).items()}
            terms["snr"] = float(signal_to_noise(x, output.reconstruction))
            for q, r in enumerate(left[1:], 1):
                terms[f"residual_error/{q}"] = float(r.square().mean() / power)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / len(waveforms)
    perplexities = BookStatistics(chosen, chosen[..., None]).perplexities()
    return sums | {f"code_perplexity/{q}": float(each) for q, each in enumerate(perplexities, 1)}
