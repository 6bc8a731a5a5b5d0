"""Transformer: an encoder–decoder for translation that consists of attention alone.

Paper: Ashish Vaswani, Noam Shazeer, Niki Parmar, Jakob Uszkoreit, Llion Jones, Aidan N. Gomez, Łukasz
Kaiser and Illia Polosukhin, "Attention Is All You Need", 2017, arXiv:1706.03762.

The idea. A recurrent network reads a sentence word after word, and information about a distant word must
survive every step between. Here each word attends to all others at once: its query is compared with their
keys, and it takes the mean of their values, weighted by how well query and key match. So every pair of
words is one step apart, and all positions of a sentence are computed in parallel.

    attention     softmax(QKᵀ/√d_k) V                                               (equation 1)
    multi-head    concat(head₁ … head_h) W,  head_i = attention(xW_i^Q, yW_i^K, yW_i^V)
    feed-forward  max(0, xW₁ + b₁) W₂ + b₂                                          (equation 2)
    residual      x ← LayerNorm(x + dropout(f(x))),  f each of these                (section 3.1)
    positions     sin(position / 10000^(2i/d)), cos of the same                     (section 3.5)
    learning rate d^(−1/2) · min(t^(−1/2), t·w^(−3/2)),  w steps of warm-up         (equation 3)

    source (b, m) → encoder layers: self-attention, feed-forward → memory (b, m, d)
    target (b, n) → decoder layers: causal self-attention, cross-attention to the memory, feed-forward
                  → logits (b, n, vocab)

One matrix embeds both languages, times √d, and is the output matrix (section 3.4).

`transformer_base` and `transformer_big` are the paper's (table 3), with its vocabulary of about 37,000
taken as 37,000: 63,082,496 and 214,245,376 parameters. `transformer_small` has 3 + 3 layers of width 256,
for tens of thousands of sentences; `transformer_mini` is half as wide, `transformer_tiny` is for tests.

What differs from the paper. Where a recipe sets `optim.ema_decay`, the exponential moving average of the
weights is evaluated, in place of the average of the last checkpoints. The length penalty counts the new
tokens, including the end token. A recipe states the peak learning rate, of which (d·w)^(−1/2) is the
paper's; the short recipes use cosine decay. Small data sets have fewer words than the paper's 4.5 million
pairs, and need more dropout. Embeddings are initialized with variance 1/d, other matrices by Xavier's
rule; the paper does not say.
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
from torchstone.parts.decoding.beam_search import search
from torchstone.parts.facts import Fact, ParityCase, count_parameters, on_meta
from torchstone.parts.transformer.attention import KVCache, MultiHeadAttention, attention_weights
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import sinusoidal_positions
from torchstone.parts.transformer.token_loss import token_loss
from torchstone.systems import Variant
from torchstone.tasks.text.translate import PAD, evaluate, predict, train_tokenizer, translate

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "gettext"  # pairs: gettext, copy, a folder of SPLIT.LANGUAGE, FILE,FILE, a .tsv, hf:NAME
    source: str = "de"  # source language: a file's suffix, a column's name
    target: str = "en"  # target language
    variant: str = "transformer_mini"  # network
    tokenizer: Literal["bpe", "unigram", "wordpiece", "characters"] = "bpe"  # tokenizer of both languages
    vocab_size: int = 2000  # largest vocabulary, shared by both languages
    max_length: int = 128  # largest number of tokens per sentence; longer pairs are not trained on
    dropout: float = 0.1  # dropout probability of embeddings and of residual branches
    label_smoothing: float = 0.1  # label smoothing
    steps: int = 2500  # number of training steps
    batch_size: int = 600  # batch size, in target tokens
    optim: OptimConfig = OptimConfig(
        lr=8e-4, beta2=0.98, eps=1e-9, warmup_ratio=0.1, ema_decay=0.98
    )  # optimizer, schedule, precision
    beam_size: int = 4  # beam size of test translations; 1 is greedy
    length_penalty: float = 0.6  # length penalty of beam search; larger favors longer translations
    eval_examples: int = 200  # validation sentences translated for BLEU at each evaluation
    seed: int = 0  # random seed of weights, order and dropout
    device: str = "auto"  # device: auto, cpu, cuda, mps


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

Mask = Bool[Tensor, "b 1 1 m"]  # True where there is a token
Source = Float[Tensor, "b m width"]
Target = Float[Tensor, "b n width"]


@dataclass(frozen=True)
class TransformerConfig:
    """The architecture of a Transformer.

    Args:
        vocab_size: number of tokens, of both languages together.
        d_ff: width of the feed-forward layers.
        layers: number of encoder layers, and of decoder layers.
        max_length: largest number of positions of a source or a target.
        pad: padding token: sources are padded with it and it is never attended to; targets end in it.
    """

    vocab_size: int = 37_000
    width: int = 512
    heads: int = 8
    d_ff: int = 2048
    layers: int = 6
    dropout: float = 0.1
    max_length: int = 1024
    pad: int = PAD


class EncoderLayer(nn.Module):
    """Self-attention, then the feed-forward network, each with a residual connection and a layer norm."""

    def __init__(self, width: int, heads: int, d_ff: int, dropout: float = 0.0):
        super().__init__()
        self.attention = MultiHeadAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, d_ff)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Source, mask: Mask | None = None) -> Source:
        x = self.norm1(x + self.dropout(self.attention(x, mask=mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the encoder's memory, and the feed-forward network.

    `self_cache` and `cross_cache` hold keys and values between calls that bring one token after another.
    """

    def __init__(self, width: int, heads: int, d_ff: int, dropout: float = 0.0):
        super().__init__()
        self.attention = MultiHeadAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross = MultiHeadAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, d_ff)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Target,
        memory: Source,
        mask: Mask | None = None,
        self_cache: KVCache | None = None,
        cross_cache: KVCache | None = None,
    ) -> Target:
        x = self.norm1(x + self.dropout(self.attention(x, causal=True, cache=self_cache)))
        x = self.norm2(x + self.dropout(self.cross(x, memory, mask=mask, cache=cross_cache)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class Transformer(nn.Module):
    """Encoder and decoder over one vocabulary."""

    positions: Tensor

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.width, self.max_length, self.pad = config.width, config.max_length, config.pad
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        positions = sinusoidal_positions(config.max_length, config.width)
        self.register_buffer("positions", positions, persistent=False)
        sizes = config.width, config.heads, config.d_ff, config.dropout
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> "Transformer":
        """A Transformer from the fields of `TransformerConfig`."""
        return cls(TransformerConfig(**kwargs))

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.width**-0.5)

    def forward(
        self, source: Int64[Tensor, "b m"], target: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n vocab"]:
        """Logits of the token that follows each target token, given those before it and the source."""
        mask = self.padding_mask(source)
        memory = self.encode(source, mask)  # (B, M, D)
        return self.unembed(self.decode(target, memory, mask))  # (B, N, D) -> (B, N, V)

    def padding_mask(self, source: Int64[Tensor, "b m"]) -> Mask:
        """True where a source token may be attended to."""
        return (source != self.pad)[:, None, None]

    def embed(self, tokens: Int64[Tensor, "b n"], offset: int = 0) -> Float[Tensor, "b n width"]:
        """Embeddings times √d, plus positions from `offset` on."""
        end = offset + tokens.shape[1]
        if end > len(self.positions):
            raise ValueError(f"{end} tokens, but positions for {len(self.positions)}")
        return self.dropout(self.embedding(tokens) * self.width**0.5 + self.positions[offset:end])

    def encode(self, source: Int64[Tensor, "b m"], mask: Mask | None = None) -> Source:
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, mask)  # (B, M, D)
        return x

    def decode(
        self,
        target: Int64[Tensor, "b n"],
        memory: Source,
        mask: Mask | None = None,
        cache: list[tuple[KVCache, KVCache]] | None = None,
    ) -> Target:
        """The decoder's hidden states.

        Args:
            cache: of each layer, for targets that continue where the last call ended.
        """
        x = self.embed(target, cache[0][0].length if cache else 0)
        for i, layer in enumerate(self.decoder):
            x = layer(x, memory, mask, *(cache[i] if cache else ()))  # (B, N, D)
        return x

    def unembed(self, hidden: Target) -> Float[Tensor, "b n vocab"]:
        return F.linear(hidden, self.embedding.weight)

    @torch.no_grad()
    def generate(
        self,
        source: Int64[Tensor, "b m"],
        max_new_tokens: int,
        *,
        bos: int,
        eos: int,
        beam_size: int = 1,
        length_penalty: float = 0.0,
        use_cache: bool = True,
    ) -> Int64[Tensor, "b length"]:
        """Translations without `bos`, padded with `eos`, by greedy search or beam search.

        Args:
            max_new_tokens: at most, `eos` included.
            use_cache: False computes all keys and values anew at each token, with the same result.
        """
        mask = self.padding_mask(source)
        memory = self.encode(source, mask).repeat_interleave(beam_size, 0)  # (B·beams, M, D)
        mask = mask.repeat_interleave(beam_size, 0)
        cache = None
        if use_cache:
            cache = [(KVCache(max_new_tokens), KVCache(source.shape[1])) for _ in self.decoder]

        def step(tokens: Tensor, rows: Tensor | None) -> Tensor:
            if cache and rows is not None:  # beams of one sentence share its memory
                for self_cache, _ in cache:
                    self_cache.reorder(rows)
            new = tokens[:, cache[0][0].length :] if cache else tokens
            hidden = self.decode(new, memory, mask, cache)[:, -1:]
            return self.unembed(hidden)[:, 0].log_softmax(-1)  # (B·beams, V)

        prompt = torch.full((len(source), 1), bos, device=source.device)
        return search(
            step,
            prompt,
            beam_size=beam_size,
            eos=eos,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
        )

    @torch.no_grad()
    def attention_weights(
        self, source: Int64[Tensor, "b m"], target: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b heads n m"]:
        """The last layer's cross-attention weights over the source, for each target token."""
        layers, mask = list[Any](self.decoder), self.padding_mask(source)
        x, memory = self.embed(target), self.encode(source, mask)
        for layer in layers[:-1]:
            x = layer(x, memory, mask)
        x = layers[-1].norm1(x + layers[-1].attention(x, causal=True))
        q, k, _ = layers[-1].cross.project(x, memory)
        return attention_weights(q, k, mask=mask)


def loss(
    model: Any, batch: tuple[Int64[Tensor, "b m"], Int64[Tensor, "b n"]], label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Cross-entropy per target token, with label smoothing (section 5.4), and accuracy."""
    source, target = batch
    logits = model(source, target[:, :-1])  # (B, N - 1, V): each token from those before it
    return token_loss(logits, target[:, 1:], pad=PAD, label_smoothing=label_smoothing)


SIZES = {
    "base": {},
    "big": {"width": 1024, "heads": 16, "d_ff": 4096, "dropout": 0.3},
    "small": {"width": 256, "d_ff": 512, "layers": 3},
    "mini": {"width": 128, "heads": 4, "d_ff": 512, "layers": 3},
    "tiny": {"width": 64, "heads": 4, "d_ff": 128, "layers": 2, "vocab_size": 100},
}
VARIANTS = {
    f"transformer_{name}": Variant(partial(Transformer.from_kwargs, **sizes), (16,))
    for name, sizes in SIZES.items()
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = read_pairs(recipe.data, recipe.source, recipe.target)
    tokenizer = train_tokenizer(recipe, data)
    model_config = {"vocab_size": tokenizer.get_vocab_size(), "dropout": recipe.dropout}
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    yield translate(model, recipe, data, tokenizer, loss=loss, model_config=model_config)


def count_variant(variant: str, part: str) -> int:
    return count_parameters(on_meta(VARIANTS[variant].make).get_submodule(part))


# parameters of the network, of an encoder layer and of a decoder layer
COUNTS = {
    "transformer_base": (63_082_496, 3_152_384, 4_204_032),
    "transformer_big": (214_245_376, 12_596_224, 16_796_672),
}
FACTS = [
    Fact(f"{variant}{part}: parameters", partial(count_variant, variant, part.strip()), figure)
    for variant, figures in COUNTS.items()
    for part, figure in zip(("", " encoder.0", " decoder.0"), figures, strict=True)
]


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `nn.Transformer`, or of one of its layers, by our names; `embedding.weight` is the same."""
    from torchstone.references.transformer import convert_names

    return convert_names(tensors)


def reference() -> Iterator[ParityCase]:
    """`nn.Transformer` and its layers, of random sizes, with padding."""
    from torchstone.references.transformer import transformer_cases

    def make(vocab_size: int, width: int, heads: int, d_ff: int, layers: int, **config: Any) -> Transformer:
        return Transformer(TransformerConfig(vocab_size, width, heads, d_ff, layers, **config))

    yield from transformer_cases(make, EncoderLayer, DecoderLayer, lambda tensors: published("", tensors))
