"""GPT: a decoder-only transformer that is trained to predict the next token, on any text.

Paper: Alec Radford, Jeffrey Wu, Rewon Child, David Luan, Dario Amodei and Ilya Sutskever, "Language
Models are Unsupervised Multitask Learners" (GPT-2), OpenAI, 2019. Before it: Radford, Narasimhan,
Salimans and Sutskever, "Improving Language Understanding by Generative Pre-Training" (GPT-1), 2018;
after it: Brown, Mann, Ryder et al., "Language Models are Few-Shot Learners" (GPT-3), 2020,
arXiv:2005.14165.

The idea. To predict how a text continues, one has to know what it is about. Stack transformer blocks whose
attention is causal (each position sees only those before it) and train them to predict the next token of
all the text there is. Translation, summaries and answers are then continuations of the right prompt.
Worked examples in the prompt are learned from without a change of any weight (few-shot learning).

    h₀ = W_e[tokens] + W_p[positions]
    a  = h + Attention(LN₁ h),   h = a + W₂ gelu(W₁ LN₂ a)      each block (GPT-2 and 3: pre-norm)
    a  = LN₁(h + Attention(h)),  h = LN₂(a + W₂ gelu(W₁ a))     (GPT-1: post-norm)
    p(next) = softmax(LN(h) W_eᵀ)                                loss −Σ log p(tokenₜ | tokens before)

    gpt1                     width 768, 12 blocks, 12 heads, context 512
    gpt2, _medium, _large, _xl   width 768, 1024, 1280, 1600; 12, 24, 36, 48 blocks; context 1024
    gpt3_small … gpt3_175b   table 2.1 of Brown et al.: 12 × 768 to 96 × 12,288; context 2048
    gpt_char, gpt_char_cpu   nanoGPT's character-level networks: 6 × 384 and 4 × 128, no biases

`gpt/in_context` trains on episodes that map symbols to labels anew each time, so that only the examples in
the context can tell the answer (`data/synthetic/in_context.py`); `eval --shots` measures that, and few-shot
classification of labelled text (`tasks/text/few_shot.py`).

Weights are initialized from N(0, 0.02²); those of residual projections from a standard deviation of
0.02 / √(2 blocks) (GPT-2, section 2.3). Validation reads the whole split in consecutive windows of the
context, so it is the same number every time. Where a text outgrows the context, its older half is dropped
(`tasks/text/generate.py`).

With `window` each token attends to so many before it only, in all blocks: time and memory of training grow
with the length and not with its square.

What differs from the paper. Position embeddings are initialized at 0.02, as in the published code's
successors (0.01 there). GPT-3 alternates dense and banded attention; all blocks are dense here, which
changes no parameter count. Its table is not consistent: XL's heads are 24 × 128 in a width of 2048 (16
here), and 13B's width is 5140 for 40 heads of 128 (`gpt3_13b` has width 5120; `gpt3_13b_paper` has 5140,
with 20 heads of 257).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.synthetic import in_context
from torchstone.data.text.corpus import read_text
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.gpt import from_config, published, to_config, unpublished
from torchstone.parts.facts import ParityCase, parameter_facts
from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.transformer.attention import KVCache, MultiHeadAttention, attention
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.sliding_window_attention import sliding_window_attention
from torchstone.systems import Variant
from torchstone.tasks.optimization import decay_matrices_only
from torchstone.tasks.text.few_shot import few_shot
from torchstone.tasks.text.generate import generate
from torchstone.tasks.text.in_context import train_in_context
from torchstone.tasks.text.language_model import (
    evaluate,
    make_tokenizer,
    predict,
    sample,
    train_language_model,
)

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "few_shot",
    "from_config",
    "generate",
    "predict",
    "published",
    "reference",
    "sample",
    "to_config",
    "unpublished",
]

MARGIN = ("loss", -1.3)


@dataclass(frozen=True)
class Recipe:
    data: str = "shakespeare"  # text: shakespeare, python, python/PACKAGE, file, folder, hf:NAME; in_context
    variant: str = "gpt_char_cpu"  # network; the next five fields override its sizes, none keeps them
    width: int | None = None  # embedding dimension
    depth: int | None = None  # number of transformer blocks
    heads: int | None = None  # number of attention heads
    context: int | None = None  # context length in tokens
    window: int | None = None  # number of tokens before each one that it attends to, none for all
    tokenizer: str = "characters"  # tokenizer: characters, bpe, or a published tokenizer.json
    vocab_size: int = 1000  # largest vocabulary of a trained tokenizer
    dropout: float = 0.0  # dropout probability
    steps: int = 2000  # number of training steps
    batch_size: int = 12  # batch size, in windows of text
    init_std: float = 0.02  # standard deviation of initial weights
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        beta2=0.99,
        weight_decay=0.1,
        warmup_ratio=0.05,
        min_lr_ratio=0.1,
        max_grad_norm=1.0,
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, windows and dropout
    device: str = "auto"  # device: auto, cpu, cuda, mps


NANO = Recipe()
GPU = replace(
    NANO,
    variant="gpt_char",
    dropout=0.2,
    steps=5000,
    batch_size=64,
    optim=replace(NANO.optim, warmup_ratio=0.02, precision="bf16", compile=True),
)
RECIPES = {
    # torchstone train gpt   the size and time of nanoGPT's CPU setting, another learning rate; on Tiny
    # Shakespeare (--data FOLDER) 2.3 min of 1 core, validation loss 1.77
    "shakespeare": Recipe(optim=replace(Recipe.optim, lr=4e-3)),
    # torchstone train gpt/shakespeare_nanogpt --data FOLDER   nanoGPT's CPU setting: 1.88 there
    "shakespeare_nanogpt": NANO,
    # torchstone train gpt/shakespeare_gpu --data FOLDER   nanoGPT's GPU setting: 1.4697 there
    "shakespeare_gpu": GPU,
    # torchstone train gpt/in_context   labels of random symbols, which only the examples before tell: 73 s
    # of 1 core, 0.98 right after 16 examples (0.991 is the best possible), chance without one
    "in_context": Recipe(
        data="in_context",
        width=64,
        depth=2,
        heads=1,
        context=33,  # 16 examples and a question
        init_std=0.15,  # at 0.02 nothing is looked up for thousands of steps
        steps=4000,
        batch_size=32,
        optim=replace(Recipe.optim, lr=3e-3),
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="python/json",
        width=32,
        depth=2,
        context=32,
        steps=120,
        batch_size=8,
        optim=replace(Recipe.optim, lr=1e-2),
    ),
}


@dataclass(frozen=True)
class GPTConfig:
    """The architecture of a GPT.

    Args:
        d_ff: width of the feed-forward layers, by default four times `width`.
        post_norm: layer norms after each residual sum and none at the end (GPT-1).
        tie_embeddings: the token embedding is the output matrix too.
        dropout: dropout probability of the residual branches; `embedding_dropout` and
            `attention_dropout` (of attention weights) are by default the same.
        scale_attention: divide the attention scores by √head_dim.
        scale_attention_by_layer: divide them by the number of the block as well.
        init_std: standard deviation of initial weights, of residual projections less.
        window: number of tokens before each one that it attends to; by default all of them.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    vocab_size: int = 50_257
    context: int = 1024
    d_ff: int | None = None
    activation: str = "gelu_new"
    bias: bool = True
    post_norm: bool = False
    tie_embeddings: bool = True
    eps: float = 1e-5
    dropout: float = 0.0
    embedding_dropout: float | None = None
    attention_dropout: float | None = None
    scale_attention: bool = True
    scale_attention_by_layer: bool = False
    init_std: float = 0.02
    window: int | None = None


def window_attention(
    layer: MultiHeadAttention, x: Float[Tensor, "batch time width"], window: int, cache: KVCache | None
) -> Float[Tensor, "batch time width"]:
    """Causal attention of each token to itself and the `window` tokens before it, with a layer's weights."""
    past = cache.length if cache else 0
    q, k, v = layer.project(x, cache=cache)  # (B, H, T, head_dim), k and v with those of the cache
    dropout = layer.dropout if layer.training else 0.0
    if past:
        first = max(0, past - window)  # no new token attends to earlier ones
        visible = None
        if x.shape[1] > 1:
            query = torch.arange(past, past + x.shape[1], device=x.device)[:, None]
            key = torch.arange(first, past + x.shape[1], device=x.device)
            visible = ((key <= query) & (key >= query - window))[None, None]
        k, v = k[:, :, first:], v[:, :, first:]
        y = attention(q, k, v, mask=visible, scale=layer.scale, dropout=dropout)
    else:
        y = sliding_window_attention(q, k, v, window=window, causal=True, scale=layer.scale, dropout=dropout)
    return layer.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Causal self-attention, then the feed-forward network, each with a residual connection.

    Args:
        number: of the block, from 1 on.
    """

    def __init__(self, config: GPTConfig, number: int):
        super().__init__()
        width, eps, bias = config.width, config.eps, config.bias
        scale = (width // config.heads) ** -0.5 if config.scale_attention else 1.0
        if config.scale_attention_by_layer:
            scale /= number
        dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.norm1 = nn.LayerNorm(width, eps, bias=bias)
        self.attention = MultiHeadAttention(width, config.heads, bias=bias, scale=scale, dropout=dropout)
        self.norm2 = nn.LayerNorm(width, eps, bias=bias)
        self.mlp = FeedForward(width, config.d_ff or 4 * width, config.activation, bias=bias)
        self.post_norm, self.dropout, self.window = config.post_norm, config.dropout, config.window
        accept_old_keys(self, {"feed.": "mlp."})

    def forward(
        self, h: Float[Tensor, "batch time width"], cache: KVCache | None = None
    ) -> Float[Tensor, "batch time width"]:
        p, training = self.dropout, self.training
        if self.post_norm:
            a = self.norm1(h + F.dropout(self.attend(h, cache), p, training))
            return self.norm2(a + F.dropout(self.mlp(a), p, training))
        a = h + F.dropout(self.attend(self.norm1(h), cache), p, training)
        return a + F.dropout(self.mlp(self.norm2(a)), p, training)

    def attend(self, x: Tensor, cache: KVCache | None) -> Tensor:
        """Causal attention, to all tokens before or within the window."""
        if self.window is None:
            return self.attention(x, causal=True, cache=cache)
        return window_attention(self.attention, x, self.window, cache)


class GPT(nn.Module):
    """Token and position embeddings, transformer blocks, and the next token's logits."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.vocab_size, self.context = config.vocab_size, config.context
        dropout = config.dropout if config.embedding_dropout is None else config.embedding_dropout
        self.embedding_dropout = dropout
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList([Block(config, number) for number in range(1, config.depth + 1)])
        final_norm = nn.LayerNorm(config.width, config.eps, bias=config.bias)
        self.final_norm = nn.Identity() if config.post_norm else final_norm
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight
        self.init_weights(config.init_std)
        accept_old_keys(
            self,
            {
                "tokens.": "token_embedding.",
                "places.": "position_embedding.",
                "layers.": "blocks.",
                "norm.": "final_norm.",
            },
        )

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> "GPT":
        """A GPT from the fields of `GPTConfig`."""
        return cls(GPTConfig(**kwargs))

    def init_weights(self, std: float = 0.02) -> None:
        """N(0, std²); residual projections over √(2 blocks), so that the sum of all does not grow."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() > 1:
                is_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                nn.init.normal_(weight, std=std / (2 * len(self.blocks)) ** (0.5 * is_residual))

    def make_cache(self) -> list[KVCache]:
        """An empty cache for `forward`: each block's keys and values."""
        return [KVCache(self.context) for _ in self.blocks]

    def forward(
        self, tokens: Int64[Tensor, "batch time"], cache: list[KVCache] | None = None, last_only: bool = False
    ) -> Float[Tensor, "batch positions vocab"]:
        """Logits of the next token at every position, or (`last_only`) at the last one.

        With a cache, `tokens` continue what was read into it.

        Raises:
            BadInput: more tokens than the context holds.
        """
        return self.read(self.token_embedding(tokens), cache, last_only)

    def read(
        self,
        h: Float[Tensor, "batch time width"],
        cache: list[KVCache] | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch positions vocab"]:
        """What `forward` gives for embeddings, of tokens or of anything else of their width.

        Raises:
            BadInput: more of them than the context holds.
        """
        begin = cache[0].length if cache else 0
        end = begin + h.shape[1]
        if end > self.context:
            raise BadInput(f"{end} tokens, but the context holds {self.context}")
        h = h + self.position_embedding.weight[begin:end]  # (B, T, C)
        h = F.dropout(h, self.embedding_dropout, self.training)
        for index, block in enumerate(self.blocks):
            h = block(h, cache[index] if cache else None)  # (B, T, C)
        h = self.final_norm(h[:, -1:] if last_only else h)
        return self.head(h)  # (B, T, C) -> (B, T, V)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the next token, −log p(tokenₜ | tokens before), mean over all positions (nats)."""
    x, y = batch  # both (B, T); y is x one token later
    logits = model(x)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def variant(width: int, depth: int, heads: int, **config: Any) -> Variant:
    make = partial(GPT.from_kwargs, width=width, depth=depth, heads=heads, **config)
    return Variant(make, (config.get("context", GPTConfig.context),))


# nanoGPT's networks have no biases, and the exact gelu
CHARACTERS = {"vocab_size": 65, "activation": "gelu", "bias": False}
GPT3 = {
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large": (1536, 24, 16),
    "xl": (2048, 24, 16),
    "2_7b": (2560, 32, 32),
    "6_7b": (4096, 32, 32),
    "13b": (5120, 40, 40),
    "13b_paper": (5140, 40, 20),
    "175b": (12_288, 96, 96),
}
VARIANTS = {
    "gpt_char_cpu": variant(128, 4, 4, context=64, **CHARACTERS),
    "gpt_char": variant(384, 6, 6, context=256, **CHARACTERS),
    "gpt1": variant(768, 12, 12, vocab_size=40_478, context=512, post_norm=True),
    "gpt2": variant(768, 12, 12),
    "gpt2_medium": variant(1024, 24, 16),
    "gpt2_large": variant(1280, 36, 20),
    "gpt2_xl": variant(1600, 48, 25),
    **{f"gpt3_{name}": variant(*sizes, context=2048) for name, sizes in GPT3.items()},
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    text = None if in_context.is_in_context(recipe.data) else read_text(recipe.data)
    tokenizer = in_context.make_tokenizer() if text is None else make_tokenizer(recipe, text)
    make: Any = VARIANTS[recipe.variant].make
    sizes = {name: getattr(recipe, name) for name in ("width", "depth", "heads", "context", "window")}
    model_config = {
        **make.keywords,
        **{name: size for name, size in sizes.items() if size is not None},
        "vocab_size": tokenizer.get_vocab_size(),
        "dropout": recipe.dropout,
        "init_std": recipe.init_std,
    }
    rng.seed(recipe.seed)
    try:
        model = make(**model_config).to(device)
    except ValueError as error:
        raise BadInput(f"this network is impossible: {error}") from None
    learning: dict[str, Any] = {
        "loss": loss,
        "parameters": decay_matrices_only(model, recipe.optim),  # no weight decay of biases and norms
        "model_config": model_config,
    }
    if text is None:
        yield train_in_context(model, recipe, tokenizer, **learning)
    else:
        yield train_language_model(model, recipe, text, tokenizer, **learning)


COUNTS = {
    "gpt_char_cpu": 804_096,
    "gpt_char": 10_745_088,
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    # by V·d + C·d + layers·(12 d² + 13 d) + 2 d of the paper's table
    "gpt3_small": 125_226_240,
    "gpt3_medium": 355_871_744,
    "gpt3_large": 760_300_032,
    "gpt3_xl": 1_315_723_264,
    "gpt3_2_7b": 2_651_553_280,
    "gpt3_6_7b": 6_658_404_352,
    "gpt3_13b": 12_853_386_240,
    "gpt3_13b_paper": 12_952_938_780,
    "gpt3_175b": 174_604_259_328,
}
FACTS = parameter_facts(VARIANTS, {name: (count,) for name, count in COUNTS.items()})


def reference() -> Iterator[ParityCase]:
    """transformers' classes, in random configurations from a fixed seed."""
    from torchstone.references import OutputAdapter, randomize_weights, unwrap_names
    from torchstone.references.transformers import random_gpts

    torch.manual_seed(0)
    names = unwrap_names(published)
    for number, net in enumerate(random_gpts(10)):
        model_config = from_config(net.config.to_dict())[1]
        theirs = OutputAdapter(net, lambda net, tokens: net(tokens).logits).double().eval()
        randomize_weights(theirs, 0.2)
        ours = GPT.from_kwargs(**model_config).double().eval()
        ours.load_state_dict(names(theirs.state_dict()))
        tokens = torch.randint(model_config["vocab_size"], (3, model_config["context"] - number % 3))
        if number >= 6:
            ours, theirs = ours.float(), theirs.float()
        label = f"{net.config.model_type} {list(model_config.values())}"
        yield ParityCase(ours, theirs, tokens, names, torch.optim.AdamW, label)
