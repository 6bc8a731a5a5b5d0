"""DALL-E 3 from its definition: each image alone, its caption without padding, the text encoder and the U-Net
in plain operations, both losses summed token by token and image by image."""

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.parts.diffusion.unet_blocks import timestep_embedding
from torchstone.parts.facts import ParityCase
from torchstone.references import randomize_weights

PAD, IMAGE_ID = 0, 2


def plain_norm(norm: Any, x: Tensor) -> Tensor:
    """Layer norm of rows, (rows, width)."""
    centered = x - x.mean(-1, keepdim=True)
    variance = centered.square().mean(-1, keepdim=True)
    return centered / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def plain_group_norm(norm: Any, x: Tensor) -> Tensor:
    """Of one image, (channel, height, width)."""
    rows = []
    for group in x.split(len(x) // norm.num_groups):
        centered = group - group.mean()
        rows.append(centered / (centered.square().mean() + norm.eps).sqrt())
    return torch.cat(rows) * norm.weight[:, None, None] + norm.bias[:, None, None]


def plain_attention(layer: Any, x: Tensor, memory: Tensor) -> Tensor:
    """Attention head by head, (queries, width) and (keys, width)."""
    weights, biases = layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)
    q, k, v = (y @ w.T + b for y, w, b in zip((x, memory, memory), weights, biases, strict=True))
    heads = []
    for head in range(layer.heads):
        own = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        scores = q[:, own] @ k[:, own].T / math.sqrt(layer.head_dim)
        weight = (scores - scores.amax(1, keepdim=True)).exp()
        heads.append(weight / weight.sum(1, keepdim=True) @ v[:, own])
    return torch.cat(heads, 1) @ layer.out.weight.T + layer.out.bias


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def plain_gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def plain_text(encoder: Any, words: Tensor) -> Tensor:
    """Hidden states of one caption without padding, (tokens, width)."""
    h = encoder.token_embedding.weight[words] + encoder.position_embedding.weight[: len(words)]
    for layer in encoder.layers:
        y = plain_norm(layer.norm1, h)
        h = h + plain_attention(layer.attention, y, y)
        y = plain_norm(layer.norm2, h) @ layer.mlp.up.weight.T + layer.mlp.up.bias
        h = h + plain_gelu(y) @ layer.mlp.down.weight.T + layer.mlp.down.bias
    return plain_norm(encoder.norm, h)


def plain_conv(
    conv: Any, x: Tensor, stride: int = 1, pad: tuple[int, int, int, int] = (1, 1, 1, 1)
) -> Tensor:
    """A convolution as a product with the patches, (channel, height, width)."""
    side = conv.kernel_size[0]
    x = F.pad(x, pad if side > 1 else (0, 0, 0, 0))
    patches = x.unfold(1, side, stride).unfold(2, side, stride)  # (channel, rows, columns, side, side)
    return torch.einsum("chwij,ocij->ohw", patches, conv.weight) + conv.bias[:, None, None]


def plain_block(block: Any, x: Tensor, e: Tensor) -> Tensor:
    h = plain_conv(block.conv1, silu(plain_group_norm(block.norm1, x)))
    embedding = (block.time.weight @ e + block.time.bias)[:, None, None]
    if block.scale_shift:
        scale, shift = embedding.chunk(2)
        h = plain_group_norm(block.norm2, h) * (1 + scale) + shift
    else:
        h = plain_group_norm(block.norm2, h + embedding)
    h = plain_conv(block.conv2, silu(h))
    return h + (x if isinstance(block.carry, nn.Identity) else plain_conv(block.carry, x))


def plain_spatial(block: Any, x: Tensor, text: Tensor) -> Tensor:
    """Self-attention over locations, then cross-attention to the caption's tokens."""
    rows = lambda y: y.flatten(1).T  # noqa: E731
    y = rows(plain_group_norm(block.norm, x))
    h = rows(x) + plain_attention(block.attention, y, y)
    memory = text @ block.widen.weight.T + block.widen.bias
    h = h + plain_attention(block.text, plain_norm(block.text_norm, h), memory)
    return h.T.view_as(x)


def plain_unet(net: Any, x: Tensor, sines: Tensor, words: Tensor) -> Tensor:
    """The prediction for one noisy image, (channel, height, width), at a timestep given by its sines."""
    e = net.time[0].weight @ sines.to(x) + net.time[0].bias
    e = net.time[2].weight @ silu(e) + net.time[2].bias
    text = plain_text(net.text_encoder, words)
    mean = text.sum(0) / len(text)
    e = silu(e + net.text_projection.weight @ mean + net.text_projection.bias)
    patch = net.config.patch
    folded = [x[c, i::patch, j::patch] for c in range(len(x)) for i in range(patch) for j in range(patch)]
    x = torch.stack(folded)
    if net.coarse_head is not None:
        hidden = silu(net.coarse_head.hidden.weight @ mean + net.coarse_head.hidden.bias)
        coarse = net.coarse_head.out.weight @ hidden + net.coarse_head.out.bias
        x = torch.cat([x, coarse.view(net.coarse_head.shape)])
    skips = [x := plain_conv(net.conv_in, x)]
    for stage in net.down:
        for number, block in enumerate(stage.blocks):
            x = plain_block(block, x, e)
            if len(stage.attentions):
                x = plain_spatial(stage.attentions[number], x, text)
            skips.append(x)
        if stage.resize is not None:
            skips.append(x := plain_conv(stage.resize.conv, x, 2, (0, 1, 0, 1)))
    x = plain_block(net.middle_before, x, e)
    x = plain_block(net.middle_after, plain_spatial(net.middle_attention, x, text), e)
    for stage in net.up:
        for number, block in enumerate(stage.blocks):
            x = plain_block(block, torch.cat([x, skips.pop()]), e)
            if len(stage.attentions):
                x = plain_spatial(stage.attentions[number], x, text)
        if stage.resize is not None:
            x = plain_conv(stage.resize.conv, x.repeat_interleave(2, 1).repeat_interleave(2, 2))
    y = plain_conv(net.conv_out, silu(plain_group_norm(net.norm, x)))
    out = y.new_zeros(len(y) // patch**2, y.shape[1] * patch, y.shape[2] * patch)
    for channel, row in enumerate(y):
        c, place = divmod(channel, patch**2)
        out[c, place // patch :: patch, place % patch :: patch] = row
    return out


class PlainDALLE3(nn.Module):
    """The predictions and both losses, with the same parameters as `model`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, x0: Tensor, t: Tensor, epsilon: Tensor, words: Tensor, tokens: Tensor, targets: Tensor
    ) -> tuple[Tensor, ...]:
        net: Any = self.model
        process = net.decoder.process
        alphas = [1 - float(beta) for beta in process.noise_schedule().to_float64().betas]
        predictions, errors = [], []
        # float32 sines, whose last bit depends on how many there are: those of the whole batch
        config = net.decoder.config
        sines = timestep_embedding(t, config.widths[0], freq_shift=config.freq_shift, flip_sin_to_cos=False)
        for row, (image, noise, caption) in enumerate(zip(x0, epsilon, words, strict=True)):
            timestep = int(t[row])
            alpha_bar = math.prod(alphas[: timestep + 1])
            a, b = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
            prediction = plain_unet(net.decoder, a * image + b * noise, sines[row], caption[caption != PAD])
            target = {"v": a * noise - b * image, "epsilon": noise, "x0": image}[process.prediction_type]
            predictions.append(prediction)
            errors += [(prediction - target).square().mean()]
        nats, count = x0.new_zeros(()), 0
        for image, row, answer in zip(x0, tokens, targets, strict=True):
            length = int((row != PAD).nonzero().max()) + 1
            logits = net.captioner(image[None], row[None, :length])[0]
            for position in range(length):
                if answer[position] != PAD:
                    scores = logits[position]
                    nats = nats + scores.exp().sum().log() - scores[answer[position]]
                    count += 1
        return torch.stack(predictions), torch.stack(errors).mean(), nats / count


class OurLosses(nn.Module):
    """The same, of whole batches."""

    def __init__(
        self, model: nn.Module, captioner_loss: Callable[..., Any], decoder_loss: Callable[..., Any]
    ):
        super().__init__()
        self.model, self.captioner_loss, self.decoder_loss = model, captioner_loss, decoder_loss

    def forward(
        self, x0: Tensor, t: Tensor, epsilon: Tensor, words: Tensor, tokens: Tensor, targets: Tensor
    ) -> tuple[Tensor, ...]:
        from torchstone.data.vision.diffusion_batches import DiffusionBatch
        from torchstone.data.vision.question_batches import QuestionBatch

        net: Any = self.model
        outputs: list[Tensor] = []

        def noting(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
            outputs.append(net.decoder(x, t, context))
            return outputs[0]

        process = net.decoder.process
        schedule = process.noise_schedule().to_float64()
        error = self.decoder_loss(noting, process, schedule, DiffusionBatch(x0, t, epsilon, words))
        nats = self.captioner_loss(net.captioner, QuestionBatch(x0, tokens, targets))["loss"]
        return outputs[0], error, nats


def cases(
    make: Callable[..., nn.Module],
    captioner_loss: Callable[..., Any],
    decoder_loss: Callable[..., Any],
    count: int = 9,
) -> Iterator[ParityCase]:
    """Random small networks in float64, with captions of different lengths, one of them empty."""
    rng = Random(2023)
    for number in range(count):
        torch.manual_seed(number)
        size, patch = 8, (1, 2)[number % 2]
        heads, layers = rng.choice((1, 2)), rng.choice((2, 3))
        vocab, width = rng.randint(12, 20), heads * rng.choice((4, 6))
        captioner = {
            "vision": {
                **{"width": heads * 4, "layers": layers, "heads": heads, "d_ff": 12, "image_size": size},
                **{"patch_size": 4, "activation": "gelu"},
            },
            "language": {
                **{"width": width, "depth": rng.choice((1, 2)), "heads": heads, "vocab_size": vocab},
                **{"context": 20, "d_ff": 12},
            },
        }
        channels = rng.choice(((8, 12), (4, 8), (6, 6)))
        words_known = rng.randint(10, 16)
        decoder = {
            **{"widths": channels, "attention": (False, True) if number % 3 else (True, True)},
            **{"depth": rng.choice((1, 2)), "groups": 2, "channels": 3, "size": size, "patch": patch},
            **{"scale_shift": number % 2 == 0, "coarse_head": (0, 6)[number % 3 > 0]},
            **{"head_width": channels[1] // 2 if number % 3 else None},
            "text_encoder": {
                **{"vocab_size": words_known, "max_length": 7, "width": 2 * rng.choice((3, 4))},
                **{"depth": rng.choice((1, 2)), "heads": 2},
            },
            "process": {"timesteps": 50, "prediction_type": ("v", "epsilon", "x0")[number % 3]},
        }
        model = make(captioner, decoder).double().train(number % 2 == 0)
        randomize_weights(model, 0.3)
        words = torch.randint(3, words_known, (3, 7))
        words[:, 0] = 1  # [START]
        for row, length in enumerate((7, rng.randint(2, 6), 1)):
            words[row, length:] = PAD
        patches = (size // 4) ** 2
        tokens = torch.full((3, patches + 9), PAD)
        targets = torch.full_like(tokens, PAD)
        for row, length in enumerate((9, rng.randint(5, 8), 4)):
            ids = torch.randint(6, vocab, (length,))
            tokens[row, : patches + length] = torch.cat([torch.full((patches,), IMAGE_ID), ids])
            targets[row, patches + 1 : patches + length - 1] = ids[2:]
        inputs = (
            torch.rand(3, 3, size, size).double() * 2 - 1,
            torch.randint(50, (3,)),
            torch.randn(3, 3, size, size).double(),
            words,
            tokens,
            targets,
        )
        yield ParityCase(
            OurLosses(model, captioner_loss, decoder_loss),
            PlainDALLE3(model),
            inputs,
            None,
            torch.optim.AdamW,
            f"{decoder['process']['prediction_type']}, patch {patch}, {('training', 'use')[number % 2]}",
        )
