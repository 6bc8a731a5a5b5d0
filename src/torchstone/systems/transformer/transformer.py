"""Transformer: translation by attention alone.

Paper: Ashish Vaswani, Noam Shazeer, Niki Parmar, Jakob Uszkoreit, Llion Jones, Aidan N. Gomez, Łukasz
Kaiser and Illia Polosukhin, "Attention Is All You Need", 2017, arXiv:1706.03762.

The idea. A recurrent network reads a sentence word after word, and what is far away must survive
every step between. Here each word asks all the others at once: its query is compared with their keys,
and it takes the mean of their values, weighted by how well they fit. So nothing is further than one
step, and all places of a sentence are computed together.

    attention     softmax(QKᵀ/√d_k) V                                               (equation 1)
    several heads concat(head₁ … head_h) W,  head_i = attention(xW_i^Q, yW_i^K, yW_i^V)
    feed-forward  max(0, xW₁ + b₁) W₂ + b₂                                          (equation 2)
    each of them  x ← LayerNorm(x + dropout(f(x)))                                  (section 3.1)
    positions     sin(place / 10000^(2i/d)), cos of the same                        (section 3.5)
    learning rate d^(−1/2) · min(t^(−1/2), t·w^(−3/2)),  w steps of warm-up         (equation 3)

    source (b, m) → encoder layers: to itself, feed-forward → memory (b, m, d)
    target (b, n) → decoder layers: to its past, to the memory, feed-forward → logits (b, n, vocabulary)

One matrix embeds both languages, times √d, and gives the logits (section 3.4).

`transformer_base` and `transformer_big` are the paper's (table 3), its vocabulary of about 37,000 taken
as 37,000: 63,082,496 and 214,245,376 parameters. `transformer_small` has 3 layers a side of width 256,
for tens of thousands of sentences; `transformer_mini` is half as wide, `transformer_tiny` for tests.

What differs from the paper. The moving average of the weights is judged where a recipe says `ema`, in
place of the average of the last checkpoints. The length penalty counts the new tokens, the end among
them. A recipe states the rate's peak, of which (d·w)^(−1/2) is the paper's; the short ones let it fall
by a cosine. Small sets have fewer words than the paper's 4.5 million pairs, and need more dropout.
Embeddings start with variance 1/d, other matrices by Xavier's rule; the paper does not say.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.text.parallel import read_pairs
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.parts.decoding.beam_search import beam_search, greedy_search
from torchstone.parts.facts import Fact, parameters
from torchstone.parts.transformer.attention import MultiHeadAttention, KVCache, attention_weights
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import sinusoidal_positions
from torchstone.references.transformer import transformer_cases, convert_names
from torchstone.systems import Variant
from torchstone.tasks.text.translate import PAD, evaluate, train_tokenizer, predict, translate

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "gettext"  # gettext, copy, a folder of SPLIT.LANGUAGE, FILE,FILE, a .tsv, hf:NAME
    source: str = "de"  # language translated from: a file's suffix, a column's name
    target: str = "en"  # language translated to
    variant: str = "transformer_mini"  # which network
    tokenizer: Literal["bpe", "unigram", "wordpiece", "characters"] = "bpe"  # of both languages
    vocab_size: int = 2000  # its tokens at most
    max_length: int = 128  # tokens of a sentence at most; longer pairs are not trained on
    dropout: float = 0.1  # of embeddings and of what is added to each sum
    label_smoothing: float = 0.1  # share of the label's probability spread over the vocabulary
    steps: int = 2500  # updates
    batch_size: int = 600  # target tokens an update
    optim: OptimConfig = OptimConfig(
        lr=8e-4, beta2=0.98, eps=1e-9, warmup_ratio=0.1, ema_decay=0.98
    )  # optimizer, schedule, precision
    beam_size: int = 4  # translations followed at once when testing; 1 is greedy
    length_penalty: float = 0.6  # how much longer translations are favoured
    eval_examples: int = 200  # validation sentences translated for BLEU at each evaluation
    seed: int = 0  # of weights, order and dropout
    device: str = "auto"  # auto, cpu, cuda, mps


Mask = Bool[Tensor, "b 1 1 m"]  # True where there is a word
Source = Float[Tensor, "b m width"]
Target = Float[Tensor, "b n width"]

MARGIN = ("accuracy", 0.4)  # of the copied characters, on the test split

MULTI30K = Recipe(
    variant="transformer_small",
    vocab_size=4000,
    batch_size=1000,
    optim=replace(Recipe.optim, lr=1.5e-3, ema_decay=0.99),
)
WMT = Recipe("hf:wmt/wmt14:de-en", "en", "de", "transformer_base", vocab_size=37_000, batch_size=25_000)
COPY = Recipe(
    "copy",
    variant="transformer_tiny",
    vocab_size=268,
    dropout=0.0,
    beam_size=1,
    optim=replace(Recipe.optim, ema_decay=0.0),
)

RECIPES = {
    "translate": Recipe(),
    # torchstone train transformer/multi30k_cpu --data DIR
    "multi30k_cpu": replace(MULTI30K, steps=3500),
    # torchstone train transformer/multi30k --data DIR       BLEU 36.5 for a public network of this size
    "multi30k": replace(
        MULTI30K,
        vocab_size=8000,
        dropout=0.3,
        batch_size=4000,
        steps=6000,
        optim=replace(MULTI30K.optim, ema_decay=0.999),
    ),
    # torchstone train transformer/paper      8 GPUs, 12 hours in the paper: BLEU 27.3
    "paper": replace(
        WMT,
        steps=100_000,
        optim=replace(WMT.optim, lr=(512 * 4000) ** -0.5, lr_schedule="inverse_root", warmup_ratio=0.04),
    ),
    "copy": replace(COPY, steps=1200, optim=replace(COPY.optim, lr=4e-3)),
    # for tests: seconds
    "smoke": replace(
        COPY, steps=150, optim=replace(COPY.optim, lr=5e-3, lr_schedule="inverse_root"), eval_examples=20
    ),
}


class EncoderLayer(nn.Module):
    """Attention to its own places, then the feed-forward network, each added and normalised."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float = 0.0):
        super().__init__()
        self.attention = MultiHeadAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, inner)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Source, mask: Mask | None = None) -> Source:
        x = self.norm1(x + self.dropout(self.attention(x, mask=mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """The same with attention to the encoder's memory in between; its own places see their past only.

    `own` and `across` keep keys and values between calls that bring one token after another.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float = 0.0):
        super().__init__()
        self.attention = MultiHeadAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross = MultiHeadAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, inner)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Target,
        memory: Source,
        mask: Mask | None = None,
        own: KVCache | None = None,
        across: KVCache | None = None,
    ) -> Target:
        x = self.norm1(x + self.dropout(self.attention(x, causal=True, cache=own)))
        x = self.norm2(x + self.dropout(self.cross(x, memory, mask=mask, cache=across)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class Transformer(nn.Module):
    """Encoder and decoder over one vocabulary.

    Args:
        vocabulary: number of tokens of both languages.
        layers: of the encoder, and as many of the decoder.
        longest: places at most, of a source or a target.
        pad: the token that fills up sources, which nothing looks at, and the ends of targets.
    """

    positions: Tensor

    def __init__(
        self, vocabulary: int = 37_000, width: int = 512, heads: int = 8, inner: int = 2048,
        layers: int = 6, dropout: float = 0.1, longest: int = 1024, pad: int = PAD,
    ):  # fmt: skip
        super().__init__()
        self.width, self.max_length, self.pad = width, longest, pad
        self.embedding = nn.Embedding(vocabulary, width)
        self.register_buffer("positions", sinusoidal_positions(longest, width), persistent=False)
        sizes = width, heads, inner, dropout
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.initialise()

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.width**-0.5)

    def forward(
        self, source: Int64[Tensor, "b m"], target: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n vocabulary"]:
        """Logits of the token that follows each target token, given those before it and the source."""
        mask = self.visible(source)
        return self.unembed(self.decode(target, self.encode(source, mask), mask))

    def visible(self, source: Int64[Tensor, "b m"]) -> Mask:
        return (source != self.pad)[:, None, None]

    def embed(self, tokens: Int64[Tensor, "b n"], first: int = 0) -> Float[Tensor, "b n width"]:
        last = first + tokens.shape[1]
        if last > len(self.positions):
            raise ValueError(f"{last} tokens, but positions for {len(self.positions)}")
        return self.dropout(self.embedding(tokens) * self.width**0.5 + self.positions[first:last])

    def encode(self, source: Int64[Tensor, "b m"], mask: Mask | None = None) -> Source:
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return x

    def decode(
        self,
        target: Int64[Tensor, "b n"],
        memory: Source,
        mask: Mask | None = None,
        past: list[tuple[KVCache, KVCache]] | None = None,
    ) -> Target:
        """`past`: of each layer, for targets that go on where the last call ended."""
        x = self.embed(target, past[0][0].length if past else 0)
        for i, layer in enumerate(self.decoder):
            x = layer(x, memory, mask, *(past[i] if past else ()))
        return x

    def unembed(self, hidden: Target) -> Float[Tensor, "b n vocabulary"]:
        return F.linear(hidden, self.embedding.weight)

    @torch.no_grad()
    def generate(
        self, source: Int64[Tensor, "b m"], max_new_tokens: int, *, bos: int, eos: int,
        beam_size: int = 1, length_penalty: float = 0.0, use_cache: bool = True,
    ) -> Int64[Tensor, "b length"]:  # fmt: skip
        """Translations without `start`, filled up with `end`: the likeliest token each time, or the
        best of `beams` followed at once.

        Args:
            max_new_tokens: at most; the end counts.
            cached: keep keys and values; without, all is computed anew at each token, to the same end.
        """
        mask = self.visible(source)
        memory = self.encode(source, mask).repeat_interleave(beam_size, 0)
        mask = mask.repeat_interleave(beam_size, 0)
        room = max_new_tokens, source.shape[1]
        past = [(KVCache(room[0]), KVCache(room[1])) for _ in self.decoder] if use_cache else None

        def step(tokens: Tensor, rows: Tensor | None) -> Tensor:
            if past and rows is not None:  # beams of one sentence share its memory
                for own, _ in past:
                    own.reorder(rows)
            new = tokens[:, past[0][0].length :] if past else tokens
            hidden = self.decode(new, memory, mask, past)[:, -1:]
            return self.unembed(hidden)[:, 0].log_softmax(-1)

        tokens = torch.full((len(source), 1), bos, device=source.device)
        if beam_size == 1:
            return greedy_search(step, tokens, eos=eos, max_new_tokens=max_new_tokens)[:, 1:]
        most = max_new_tokens
        found, _ = beam_search(
            step, tokens, beam_size=beam_size, eos=eos, max_new_tokens=most, length_penalty=length_penalty
        )
        return found[:, 1:]

    @torch.no_grad()
    def attention_weights(
        self, source: Int64[Tensor, "b m"], target: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b heads n m"]:
        """How the last layer's attention to the source is shared out, for each target token."""
        layers, mask = list[Any](self.decoder), self.visible(source)
        x, memory = self.embed(target), self.encode(source, mask)
        for layer in layers[:-1]:
            x = layer(x, memory, mask)
        x = layers[-1].norm1(x + layers[-1].attention(x, causal=True))
        q, k, _ = layers[-1].cross.project(x, memory)
        return attention_weights(q, k, mask=mask)


SIZES = {
    "base": {},
    "big": {"width": 1024, "heads": 16, "inner": 4096, "dropout": 0.3},
    "small": {"width": 256, "inner": 512, "layers": 3},
    "mini": {"width": 128, "heads": 4, "inner": 512, "layers": 3},
    "tiny": {"width": 64, "heads": 4, "inner": 128, "layers": 2, "vocabulary": 100},
}

VARIANTS = {f"transformer_{n}": Variant(partial(Transformer, **s), (16,)) for n, s in SIZES.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = read_pairs(recipe.data, recipe.source, recipe.target)
    tokenizer = train_tokenizer(recipe, data)
    model_config = {"vocabulary": tokenizer.get_vocab_size(), "dropout": recipe.dropout}
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    yield translate(model, recipe, data, tokenizer, model_config=model_config)


def count(variant: str, part: str) -> int:
    with torch.device("meta"):
        return parameters(VARIANTS[variant].make().get_submodule(part))


COUNTS = {
    "transformer_base": (63_082_496, 3_152_384, 4_204_032),
    "transformer_big": (214_245_376, 12_596_224, 16_796_672),
}

FACTS = [
    Fact(f"{variant}{part}: parameters", partial(count, variant, part.strip()), wanted)
    for variant, figures in COUNTS.items()
    for part, wanted in zip(("", " encoder.0", " decoder.0"), figures, strict=True)
]


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of `nn.Transformer` and its layers to ours; `embedding.weight` is ours already."""
    return convert_names(tensors)


def reference():
    """`nn.Transformer` and its layers, sizes drawn at random, with padding."""
    yield from transformer_cases(Transformer, EncoderLayer, DecoderLayer, convert_names)
