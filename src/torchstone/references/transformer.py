"""A transformer of torch's own classes, `nn.Transformer` and its layers, to hold one of ours against."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.references import OutputAdapter, convert_inside, randomize_weights

Names = Callable[[dict[str, Tensor]], dict[str, Tensor]]

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
    """Named tensors of `nn.Transformer` or of its layers by our names, of parts in their order."""
    found = {}
    for key, tensor in tensors.items():
        for theirs, ours in NAMES.items():
            key = key.replace(theirs, ours)
        found[key] = tensor
    return found


class TorchTransformer(nn.Module):
    """Encoder, decoder, one embedding for all, and positions from the formula in another form.

    What `pad` fills up is hidden in sources and targets alike.
    """

    def __init__(self, vocabulary: int, width: int, heads: int, inner: int, layers: int, pad: int = 0):
        super().__init__()
        self.pad = pad
        encoder = nn.TransformerEncoderLayer(width, heads, inner, 0.0, batch_first=True)
        decoder = nn.TransformerDecoderLayer(width, heads, inner, 0.0, batch_first=True)
        self.embedding = nn.Embedding(vocabulary, width)
        self.transformer = nn.Transformer(
            width,
            heads,
            custom_encoder=nn.TransformerEncoder(encoder, layers, enable_nested_tensor=False),
            custom_decoder=nn.TransformerDecoder(decoder, layers),
            batch_first=True,
        )

    def embed(self, tokens: Tensor) -> Tensor:
        width = self.embedding.embedding_dim
        place = torch.arange(tokens.shape[1], dtype=torch.float64)[:, None]
        turns = torch.exp(1j * place / 10_000 ** (torch.arange(0, width, 2) / width).double())
        positions = torch.stack([turns.imag, turns.real], 2).flatten(1)
        return self.embedding(tokens) * width**0.5 + positions.to(self.embedding.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        hidden = source == self.pad
        last = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=causal_mask(target.shape[1]),
            src_key_padding_mask=hidden,
            memory_key_padding_mask=hidden,
            tgt_key_padding_mask=target == self.pad,
        )
        return last @ self.embedding.weight.T


def causal_mask(length: int) -> Tensor:
    return torch.ones(length, length).triu(1).bool()


def logits_and_loss(model: nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits where a token is to be foretold, and the smoothed loss of those, written out."""
    labels = target[:, 1:].flatten()
    logits = model(source, target[:, :-1]).flatten(0, 1)[labels != 0]
    logs = logits.log_softmax(-1)
    label = F.one_hot(labels[labels != 0], logs.shape[1])
    wanted = 0.9 * label + 0.1 / logs.shape[1]
    return logits, -(wanted * logs).sum(1).mean()


def transformer_cases(
    full_model: Callable[..., nn.Module], encoder: type, decoder: type, names: Names
) -> Iterator[ParityCase]:
    """Six networks of sizes drawn at random, then an encoder and a decoder layer of the last size.

    Args:
        full_model: takes `Reference`'s arguments, dropout and pad by name.
        encoder, decoder: take width, heads and d_ff; called with (x, mask) and
            (x, memory, mask), masks (batch, 1, 1, places).
        names: named tensors of torch's classes to ours.
    """
    generator = torch.Generator().manual_seed(2017)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    def pair(ours, theirs, calls, inputs, output: str) -> ParityCase:
        randomize_weights(theirs, 0.2, add=True, generator=generator)
        ours.load_state_dict(names(theirs.state_dict()))
        ours, theirs = OutputAdapter(ours, calls[0]), OutputAdapter(theirs, calls[1])
        return ParityCase(ours, theirs, inputs, convert_inside(names), torch.optim.AdamW, output)

    for number in range(6):
        dtype = torch.float32 if number in (4, 5) else torch.float64
        heads, inner, layers = (int(draw(low, high)) for low, high in ((1, 6), (5, 40), (1, 4)))
        width, size = 2 * heads * int(draw(1, 6)), int(draw(9, 40))
        sizes, rows = (size, width, heads, inner, layers), int(draw(2, 5))
        source, target = (draw(1, size, rows, int(draw(4, 12))) for _ in range(2))
        for tokens in (source, target):
            lengths = draw(2, tokens.shape[1] + 1, rows)
            lengths[0] = tokens.shape[1]
            tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
        output = f"{layers} layers of {width}, {heads} heads, {inner} inner, {dtype}"
        with default_dtype(dtype):
            ours, theirs = full_model(*sizes, dropout=0.0, pad=0), TorchTransformer(*sizes)
            yield pair(ours, theirs, (logits_and_loss, logits_and_loss), (source, target), output)
    hidden = source == 0
    for dtype in (torch.float64, torch.float32):
        output = f"width {width}, {heads} heads, {inner} inner, {dtype}"
        with default_dtype(dtype):
            x, memory = (torch.randn(*tokens.shape, width) for tokens in (target, source))
            theirs = nn.TransformerEncoderLayer(width, heads, inner, 0.0, batch_first=True)
            calls = (
                lambda layer, x, hidden: layer(x, ~hidden[:, None, None]),
                lambda layer, x, hidden: layer(x, src_key_padding_mask=hidden),
            )
            ours = encoder(width, heads, inner)
            yield pair(ours, theirs, calls, (memory, hidden), f"encoder layer, {output}")
            theirs = nn.TransformerDecoderLayer(width, heads, inner, 0.0, batch_first=True)
            calls = (
                lambda layer, x, memory, hidden: layer(x, memory, ~hidden[:, None, None]),
                lambda layer, x, memory, hidden: layer(
                    x, memory, causal_mask(x.shape[1]), memory_key_padding_mask=hidden
                ),
            )
            ours = decoder(width, heads, inner)
            yield pair(ours, theirs, calls, (x, memory, hidden), f"decoder layer, {output}")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None, None, None]:
    """Networks made within are of this type, their buffers too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
