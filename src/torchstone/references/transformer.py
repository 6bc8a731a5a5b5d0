"""A transformer of torch's own classes (`nn.Transformer` and its layers), to compare ours with."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.references import OutputAdapter, convert_inside, randomize_weights

ConvertNames = Callable[[dict[str, Tensor]], dict[str, Tensor]]

NAMES = {
    "transformer.": "",
    "layers.": "",
    "self_attn.in_proj_": "attention.qkv.",
    "self_attn.out_proj.": "attention.out.",
    "multihead_attn.in_proj_": "cross.qkv.",
    "multihead_attn.out_proj.": "cross.out.",
    "linear1.": "feed_forward.up.",
    "linear2.": "feed_forward.down.",
}


def convert_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the names of `nn.Transformer` and its layers to ours."""
    converted = {}
    for key, tensor in tensors.items():
        for theirs, ours in NAMES.items():
            key = key.replace(theirs, ours)
        converted[key] = tensor
    return converted


class TorchTransformer(nn.Module):
    """Encoder, decoder, one embedding for both, and sinusoidal positions computed from complex numbers.

    Positions that hold `pad` are masked in source and target.
    """

    def __init__(self, vocab_size: int, width: int, heads: int, d_ff: int, layers: int, pad: int = 0):
        super().__init__()
        self.pad = pad
        encoder = nn.TransformerEncoderLayer(width, heads, d_ff, 0.0, batch_first=True)
        decoder = nn.TransformerDecoderLayer(width, heads, d_ff, 0.0, batch_first=True)
        self.embedding = nn.Embedding(vocab_size, width)
        self.transformer = nn.Transformer(
            width,
            heads,
            custom_encoder=nn.TransformerEncoder(encoder, layers, enable_nested_tensor=False),
            custom_decoder=nn.TransformerDecoder(decoder, layers),
            batch_first=True,
        )

    def embed(self, tokens: Tensor) -> Tensor:
        width = self.embedding.embedding_dim
        position = torch.arange(tokens.shape[1], dtype=torch.float64)[:, None]
        phasors = torch.exp(1j * position / 10_000 ** (torch.arange(0, width, 2) / width).double())
        positions = torch.stack([phasors.imag, phasors.real], 2).flatten(1)
        return self.embedding(tokens) * width**0.5 + positions.to(self.embedding.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        is_pad = source == self.pad
        hidden = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=causal_mask(target.shape[1]),
            src_key_padding_mask=is_pad,
            memory_key_padding_mask=is_pad,
            tgt_key_padding_mask=target == self.pad,
        )
        return hidden @ self.embedding.weight.T


def causal_mask(length: int) -> Tensor:
    """True where attention is forbidden."""
    return torch.ones(length, length).triu(1).bool()


def logits_and_loss(model: nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of every target token that is not padding, and their label-smoothed loss by definition."""
    labels = target[:, 1:].flatten()
    logits = model(source, target[:, :-1]).flatten(0, 1)[labels != 0]
    log_probs = logits.log_softmax(-1)
    one_hot = F.one_hot(labels[labels != 0], log_probs.shape[1])
    smooth_labels = 0.9 * one_hot + 0.1 / log_probs.shape[1]
    return logits, -(smooth_labels * log_probs).sum(1).mean()


def transformer_cases(
    transformer: type, encoder: type, decoder: type, convert: ConvertNames
) -> Iterator[ParityCase]:
    """Six networks of random sizes, then an encoder and a decoder layer of the last size.

    Args:
        transformer: made with `TorchTransformer`'s arguments, and `dropout` and `pad` by name.
        encoder, decoder: made with width, heads and d_ff; called with (x, mask) and (x, memory, mask),
            masks (batch, 1, 1, positions).
        convert: from named tensors of torch's classes to ours.
    """
    generator = torch.Generator().manual_seed(2017)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    def parity_case(ours, theirs, calls, inputs, label: str) -> ParityCase:
        # biases and norms are initialized trivially
        randomize_weights(theirs, 0.2, add=True, generator=generator)
        ours.load_state_dict(convert(theirs.state_dict()))
        adapters = OutputAdapter(ours, calls[0]), OutputAdapter(theirs, calls[1])
        return ParityCase(*adapters, inputs, convert_inside(convert), torch.optim.AdamW, label)

    for number in range(6):
        dtype = torch.float32 if number in (4, 5) else torch.float64
        heads, d_ff, layers = (int(draw(low, high)) for low, high in ((1, 6), (5, 40), (1, 4)))
        width, vocab_size = 2 * heads * int(draw(1, 6)), int(draw(9, 40))
        sizes, batch_size = (vocab_size, width, heads, d_ff, layers), int(draw(2, 5))
        source, target = (draw(1, vocab_size, batch_size, int(draw(4, 12))) for _ in range(2))
        for tokens in (source, target):
            lengths = draw(2, tokens.shape[1] + 1, batch_size)
            lengths[0] = tokens.shape[1]
            tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
        label = f"{layers} layers, width {width}, {heads} heads, d_ff {d_ff}, {dtype}"
        with default_dtype(dtype):
            ours, theirs = transformer(*sizes, dropout=0.0, pad=0), TorchTransformer(*sizes)
            yield parity_case(ours, theirs, (logits_and_loss, logits_and_loss), (source, target), label)
    is_pad = source == 0
    for dtype in (torch.float64, torch.float32):
        label = f"width {width}, {heads} heads, d_ff {d_ff}, {dtype}"
        with default_dtype(dtype):
            x, memory = (torch.randn(*tokens.shape, width) for tokens in (target, source))
            theirs = nn.TransformerEncoderLayer(width, heads, d_ff, 0.0, batch_first=True)
            calls = (
                lambda layer, x, is_pad: layer(x, ~is_pad[:, None, None]),
                lambda layer, x, is_pad: layer(x, src_key_padding_mask=is_pad),
            )
            ours = encoder(width, heads, d_ff)
            yield parity_case(ours, theirs, calls, (memory, is_pad), f"encoder layer, {label}")
            theirs = nn.TransformerDecoderLayer(width, heads, d_ff, 0.0, batch_first=True)
            calls = (
                lambda layer, x, memory, is_pad: layer(x, memory, ~is_pad[:, None, None]),
                lambda layer, x, memory, is_pad: layer(
                    x, memory, causal_mask(x.shape[1]), memory_key_padding_mask=is_pad
                ),
            )
            ours = decoder(width, heads, d_ff)
            yield parity_case(ours, theirs, calls, (x, memory, is_pad), f"decoder layer, {label}")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None, None, None]:
    """Create networks, buffers included, in this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
