"""T5: every task is to read a text and to write one.

Paper: Colin Raffel, Noam Shazeer, Adam Roberts, Katherine Lee, Sharan Narang, Michael Matena, Yanqi
Zhou, Wei Li and Peter J. Liu, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", 2019, arXiv:1910.10683.

The idea. Translation, questions, even classes: all can be asked and answered in words, so one network
and one loss serve them all. It is taught the language first: spans of a text are each replaced by a
sentinel, and the decoder writes the sentinels with what stood there.

    source    Thank you <X> me to your party <Y> week </s>
    target    <X> for inviting <Y> last <Z> </s>                                     (figure 2)

The network is the encoder-decoder of 2017 with three changes (section 2.1):

    norm      x / √(mean x² + ε) · g, without mean or bias, before each part, outside of the sum
    attention softmax(QKᵀ + B) V, not divided by √d; B from one table of 32 distances for all layers
    elsewhere no biases at all; the output is the embedding's transpose times d^(−1/2)

v1.0 (`t5_small` … `t5_11b`) has ReLU. v1.1 (`t5_v1_1_…`) has a gate, W₂ (gelu(W_g x) ⊙ W₁x), an
output matrix of its own that is not scaled, and had no dropout in pre-training. `t5_mini` and
`t5_tiny`, for short texts, have v1.1's layers and v1.0's output.

What differs from the paper. Adafactor is replaced by Adam. A target ends as in figure 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone import references
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.t5 import from_config, published, match_weights, to_config, unpublished
from torchstone.parts.decoding.beam_search import beam_search, greedy_search
from torchstone.parts.facts import Fact, ParityCase, parameters
from torchstone.parts.transformer.attention import MultiHeadAttention, KVCache
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import relative_position_buckets
from torchstone.systems import Variant
from torchstone.tasks.text.text_to_text import evaluate, predict, text_to_text
from torchstone.tasks.text.text_to_text_data import load_data

# fmt: off
__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "from_config", "predict", "published", "reference", "suited", "to_config", "unpublished"]
# fmt: on


@dataclass(frozen=True)
class Recipe:
    data: str = "shakespeare"  # a text to fill gaps in, or pairs (.tsv, folder, gettext); grammar
    task: Literal["denoise", "texts"] = "denoise"  # gaps in a text, or pairs of texts
    variant: str = "t5_mini"  # which network
    tokenizer: Literal["unigram", "bpe", "wordpiece", "characters"] = "unigram"  # kind of tokens
    vocabulary: int = 2000  # tokens at most
    length: int = 64  # denoise: tokens of a text; texts: tokens of a side at most
    density: float = 0.15  # share of the tokens in gaps
    span: float = 3.0  # mean tokens of a gap
    dropout: float = 0.0  # of embeddings, attention weights and what is added
    steps: int = 1200  # updates
    batch_size: int = 32  # texts an update
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=3e-3, warmup_ratio=0.1, max_grad_norm=1.0
    )  # optimizer, schedule, precision
    beams: int = 1  # answers followed at once; 1 is greedy
    judged: int = 100  # answers written in an evaluation, for `exact`
    seed: int = 0  # of weights, order and gaps
    device: str = "auto"  # auto, cpu, cuda, mps


MARGIN = ("accuracy", 0.3)  # of the target's tokens
GRAMMAR = Recipe("grammar", variant="t5_tiny", tokenizer="characters", vocabulary=64, length=40)
RECIPES = {
    "denoise": Recipe(),
    "texts": Recipe("gettext", "texts", length=48, dropout=0.1),  # or --data FILE.tsv
    "grammar": replace(GRAMMAR, steps=2500),
    # for tests: seconds
    "smoke": replace(GRAMMAR, steps=100, optim=replace(GRAMMAR.optim, lr=5e-3), batch_size=16, judged=0),
}

Hidden = Float[Tensor, "batch places width"]
Memory = Float[Tensor, "batch m width"]
Bias = Float[Tensor, "#batch heads queries keys"]
Hiding = Float[Tensor, "batch 1 1 m"]  # −∞ where a source is filled up


class Layer(nn.Module):
    """Attention to its own stack, in decoders to the encoder's memory too, then the feed-forward
    network; each adds to its input. `own` and `other` keep keys and values between calls that bring
    one token after another."""

    def __init__(self, attention: partial, feed: partial, norm: partial, p: float, across: bool):
        super().__init__()
        self.attention_norm, self.attention = norm(), attention()
        if across:
            self.cross_norm, self.cross = norm(), attention()
        self.feed_norm, self.feed = norm(), feed()
        self.dropout = nn.Dropout(p)

    def forward(
        self, x: Hidden, bias: Bias, memory: Memory | None = None, hidden: Hiding | None = None,
        own: KVCache | None = None, other: KVCache | None = None,
    ) -> Hidden:  # fmt: skip
        x = x + self.dropout(self.attention(self.attention_norm(x), bias=bias, cache=own))
        if memory is not None:
            y = self.cross(self.cross_norm(x), memory, bias=hidden, cache=other)
            x = x + self.dropout(y)
        return x + self.dropout(self.feed(self.feed_norm(x)))


class T5(nn.Module):
    """Encoder and decoder over one vocabulary.

    Args:
        head_width: of each head, whatever `width` is.
        decoder_layers: by default as many as `layers`.
        tied, scaled: the embedding is the output matrix too; the output is times width^(−1/2).
        buckets, furthest: distances that are told apart, and from where on they are all one.
        start, pad, end: what a target begins with, what sources are filled up with, what ends both.
    """

    def __init__(
        self, width: int, layers: int, heads: int, *, decoder_layers: int | None = None,
        head_width: int = 64, inner: int = 2048, vocabulary: int = 32_128, activation: str = "relu",
        gated: bool = False, tied: bool = True, scaled: bool | None = None, buckets: int = 32,
        furthest: int = 128, eps: float = 1e-6, dropout: float = 0.1, start: int = 0, pad: int = 0,
        end: int = 1,
    ):  # fmt: skip
        super().__init__()
        self.width, self.vocabulary = width, vocabulary
        self.scale = width**-0.5 if (tied if scaled is None else scaled) else 1.0
        self.buckets, self.furthest = buckets, furthest
        self.start, self.pad, self.end = start, pad, end
        more = {"bias": False, "dropout": dropout}
        layer = partial(
            Layer,
            partial(MultiHeadAttention, width, heads, head_dim=head_width, scale=1.0, **more),
            partial(FeedForward, width, inner, activation, gated=gated, **more),
            partial(nn.RMSNorm, width, eps),
            dropout,
        )
        depth = layers if decoder_layers is None else decoder_layers
        self.tokens = nn.Embedding(vocabulary, width)
        self.encoder_places, self.decoder_places = (nn.Embedding(buckets, heads) for _ in range(2))
        self.encoder = nn.ModuleList(layer(False) for _ in range(layers))
        self.decoder = nn.ModuleList(layer(True) for _ in range(depth))
        self.encoder_norm, self.decoder_norm = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.initialise()

    def initialise(self) -> None:
        """var w = 1 / fan in; queries' over a head's width as well, which stands in for its √d."""
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                table = name.endswith("_places.weight")
                nn.init.normal_(weight, std=(self.width if table else weight.shape[1]) ** -0.5)
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                with torch.no_grad():
                    module.qkv.weight[: module.inner_dim] *= module.head_dim**-0.5
        nn.init.normal_(self.tokens.weight)

    def forward(
        self, source: Int64[Tensor, "batch m"], target: Int64[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n vocabulary"]:
        """Logits of the token that follows each target token, given those before it and the source."""
        return self.unembed(self.decode(target, *self.encode(source)))

    def encode(self, source: Int64[Tensor, "batch m"]) -> tuple[Memory, Hiding]:
        """Memory, and what is added to the scores of attention to it."""
        real = source != self.pad
        real = real | ~real.any(1, keepdim=True)  # what is padding alone sees itself
        x = self.dropout(self.tokens(source))
        hidden = torch.zeros_like(real, dtype=x.dtype).masked_fill(~real, -torch.inf)[:, None, None]
        bias = self.places(self.encoder_places, source.shape[1], both_ways=True) + hidden
        for layer in self.encoder:
            x = layer(x, bias)
        return self.dropout(self.encoder_norm(x)), hidden

    def decode(
        self,
        target: Int64[Tensor, "batch n"],
        memory: Memory,
        hidden: Hiding,
        past: list[tuple[KVCache, KVCache]] | None = None,
    ) -> Hidden:
        """`past`: of each layer, for targets that go on where the last call ended."""
        x = self.dropout(self.tokens(target))
        new, seen = target.shape[1], past[0][0].length if past else 0
        bias = self.places(self.decoder_places, seen + new, both_ways=False)[:, :, seen:]
        later = torch.ones(seen + new, seen + new, dtype=torch.bool, device=x.device).triu(1)
        bias = bias.masked_fill(later[seen:], -torch.inf)
        for i, layer in enumerate(self.decoder):
            x = layer(x, bias, memory, hidden, *(past[i] if past else ()))
        return self.dropout(self.decoder_norm(x))

    def places(self, table: nn.Embedding, length: int, *, both_ways: bool) -> Bias:
        told = {"buckets": self.buckets, "furthest": self.furthest, "device": table.weight.device}
        number = relative_position_buckets(length, length, bidirectional=both_ways, **told)
        return table(number).permute(2, 0, 1)[None]

    def unembed(self, x: Hidden) -> Float[Tensor, "batch n vocabulary"]:
        return F.linear(x * self.scale, (self.tokens if self.head is None else self.head).weight)

    @torch.no_grad()
    def generate(
        self,
        source: Int64[Tensor, "batch m"],
        max_new_tokens: int,
        *,
        beam_size: int = 1,
        length_penalty: float = 0.0,
        use_cache: bool = True,
    ) -> Int64[Tensor, "batch length"]:
        """Answers without `start`, filled up with `end`: the likeliest token each time, or the best
        of `beams` followed at once.

        The end counts among `max_new_tokens`. Without `cached` keys and values all is computed anew
        at each token, to the same end.

        Raises:
            BadInput: an empty source, or a token id outside of the vocabulary.
        """
        if not source.numel():
            raise BadInput("nothing to read: give at least one token")
        for wrong in source[(source < 0) | (source >= self.vocabulary)].tolist()[:1]:
            last = self.vocabulary - 1
            raise BadInput(f"token id {wrong} is outside of the vocabulary, 0 to {last}")
        memory, hidden = (each.repeat_interleave(beam_size, 0) for each in self.encode(source))
        room = max_new_tokens, source.shape[1]
        past = [(KVCache(room[0]), KVCache(room[1])) for _ in self.decoder] if use_cache else None

        def step(tokens: Tensor, rows: Tensor | None) -> Tensor:
            if past and rows is not None:  # beams of one source share its memory
                for own, _ in past:
                    own.reorder(rows)
            new = tokens[:, past[0][0].length :] if past else tokens
            x = self.decode(new, memory, hidden, past)[:, -1:]
            return self.unembed(x)[:, 0].log_softmax(-1)

        tokens = torch.full((len(source), 1), self.start, device=source.device)
        ends = {"end": self.end, "most": max_new_tokens}
        if beam_size == 1:
            return greedy_search(step, tokens, **ends)[:, 1:]
        return beam_search(step, tokens, beam_size=beam_size, length_penalty=length_penalty, **ends)[0][:, 1:]


def sized(width: int, layers: int, heads: int, inner: int, **more: Any) -> Variant:
    return Variant(partial(T5, width=width, layers=layers, heads=heads, inner=inner, **more), (64,))


V1_1 = {"activation": "gelu_new", "gated": True, "tied": False}
SMALL = {**V1_1, "tied": True, "scaled": True, "dropout": 0.0}
VARIANTS = {
    "t5_small": sized(512, 6, 8, 2048),
    "t5_base": sized(768, 12, 12, 3072),
    "t5_large": sized(1024, 24, 16, 4096),
    "t5_3b": sized(1024, 24, 32, 16_384, head_width=128),
    "t5_11b": sized(1024, 24, 128, 65_536, head_width=128),
    "t5_v1_1_small": sized(512, 8, 6, 1024, **V1_1),
    "t5_v1_1_base": sized(768, 12, 12, 2048, **V1_1),
    "t5_v1_1_large": sized(1024, 24, 16, 2816, **V1_1),
    "t5_mini": sized(128, 3, 4, 256, head_width=32, vocabulary=2000, **SMALL),
    "t5_tiny": sized(64, 2, 4, 128, head_width=16, vocabulary=64, **SMALL),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = load_data(recipe)
    make: Any = VARIANTS[recipe.variant].make
    model_config = {
        **make.keywords,
        "vocabulary": data.tokenizer.get_vocab_size(),
        "dropout": recipe.dropout,
        **data.special,
    }
    rng.seed(recipe.seed)
    yield text_to_text(make(**model_config).to(device), recipe, data, model_config=model_config)


# fmt: off
COUNTS = {
    "t5_small": 60_506_624, "t5_base": 222_903_552, "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336, "t5_11b": 11_307_321_344,
    "t5_v1_1_small": 76_961_152, "t5_v1_1_base": 247_577_856, "t5_v1_1_large": 783_150_080,
}
# fmt: on


def count(variant: str) -> int:
    with torch.device("meta"):  # counted without memory for the weights
        return parameters(VARIANTS[variant].make())


FACTS = [Fact(f"{v} parameters", partial(count, v), figure) for v, figure in COUNTS.items()]


def reference() -> Iterator[ParityCase]:
    """transformers' class, in configurations drawn with a fixed seed, on sources with padding."""
    torch.manual_seed(0)
    names = references.unwrap_names(published)
    for number, net in enumerate(references.t5s(9, exact=6)):
        model_config = match_weights(from_config(net.config.to_dict())[1], net.state_dict())
        theirs = references.OutputAdapter(net, answer)
        ours = T5(**model_config).to(net.dtype)
        ours.load_state_dict(names(theirs.state_dict()))
        source, target = torch.randint(2, model_config["vocabulary"], (2, 3, 7 + 9 * number))
        source[1, 4:], source[2, 2:] = model_config["pad"], model_config["pad"]
        inputs, label = (source, target[:, : 5 + number]), f"{list(model_config.values())}"
        yield ParityCase(ours.eval(), theirs.eval(), inputs, names, torch.optim.AdamW, label)


def answer(net: Any, source: Tensor, target: Tensor) -> Tensor:
    return net(source, source != net.config.pad_token_id, target).logits
