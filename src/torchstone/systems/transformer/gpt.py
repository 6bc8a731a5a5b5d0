"""GPT: a transformer that only ever predicts the next token, and learns from it whatever text shows.

Paper: Alec Radford, Jeffrey Wu, Rewon Child, David Luan, Dario Amodei and Ilya Sutskever, "Language
Models are Unsupervised Multitask Learners" (GPT-2), OpenAI, 2019. Before it: Radford, Narasimhan,
Salimans and Sutskever, "Improving Language Understanding by Generative Pre-Training" (GPT-1), 2018;
after it: Brown, Mann, Ryder et al., "Language Models are Few-Shot Learners" (GPT-3), 2020,
arXiv:2005.14165.

The idea. To tell how a text goes on, one has to know what it is about. Stack layers of attention in
which each place sees only those before it, train them to give the next token of all the text there is,
and translation, summaries and answers come as continuations of the right beginning. Worked examples in
that beginning are learnt from without any weight being changed.

    h₀ = W_e[tokens] + W_p[places]
    a  = h + Attention(LN₁ h),   h = a + W₂ gelu(W₁ LN₂ a)      each layer (GPT-2 and 3: norms first)
    a  = LN₁(h + Attention(h)),  h = LN₂(a + W₂ gelu(W₁ a))     (GPT-1: norms last)
    p(next) = softmax(LN(h) W_eᵀ)                                loss −Σ log p(tokenₜ | tokens before)

    gpt1                     768 wide, 12 layers, 12 heads, context 512
    gpt2, _medium, _large, _xl   768, 1024, 1280, 1600 wide; 12, 24, 36, 48 layers; context 1024
    gpt3_small … gpt3_175b   table 2.1 of Brown et al.: 12 × 768 to 96 × 12,288; context 2048
    gpt_char, gpt_char_cpu   nanoGPT's networks of characters: 6 × 384 and 4 × 128, no biases

Weights start as N(0, 0.02²), those that add to the stream at 0.02 / √(2 layers) (GPT-2, section 2.3).
Validation reads the whole split in windows of the context, one after another, so it is the same
number every time. Where a text outgrows the context its older half goes (`tasks/text/generate.py`).

What differs from the paper. Places start at 0.02 as in the published code's successors (0.01 there).
GPT-3 alternates dense and banded attention; all layers are dense here, which no count shows. Its table
is not consistent: XL's heads are 24 × 128 in a width of 2048 (16 here), and 13B's width is 5140 for 40
heads of 128 (`gpt3_13b` is 5120 wide; `gpt3_13b_paper` 5140, with 20 heads of 257).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone import references
from torchstone.data.text.corpus import read_text
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.gpt import from_config, published, to_config, unpublished
from torchstone.parts.facts import Fact, ParityCase, parameters
from torchstone.parts.transformer.attention import MultiHeadAttention, KVCache
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.systems import Variant
from torchstone.tasks.text.generate import generate
from torchstone.tasks.text.language_model import (
    evaluate,
    train_language_model,
    predict,
    sample,
    make_tokenizer,
)

# fmt: off
__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "from_config", "generate", "predict", "published", "reference", "sample", "to_config", "unpublished"]
# fmt: on

MARGIN = ("loss", -1.3)


@dataclass(frozen=True)
class Recipe:
    data: str = "shakespeare"  # shakespeare, python, python/PACKAGE, a text file, a folder, hf:NAME
    variant: str = "gpt_char_cpu"  # which network; none of the next four leaves it as it is
    width: int | None = None  # numbers a place
    depth: int | None = None  # layers
    heads: int | None = None  # heads of attention in each
    context: int | None = None  # tokens it can look back on
    tokenizer: str = "characters"  # characters, bpe, or a published tokenizer.json
    vocab_size: int = 1000  # tokens there may be at most, when they are learnt
    dropout: float = 0.0  # share of numbers dropped in training
    steps: int = 2000  # updates
    batch_size: int = 12  # windows of text an update
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        beta2=0.99,
        weight_decay=0.1,
        warmup_ratio=0.05,
        min_lr_ratio=0.1,
        max_grad_norm=1.0,
    )  # optimizer, schedule, precision
    seed: int = 0  # of weights, windows and dropout
    device: str = "auto"  # auto, cpu, cuda, mps


NANO = Recipe()
GPU = replace(
    NANO,
    variant="gpt_char",
    dropout=0.2,
    steps=5000,
    batch_size=64,
    optim=replace(NANO.optim, warmup_ratio=0.02),
)
GPU = replace(GPU, optim=replace(GPU.optim, precision="bf16", compile=True))
RECIPES = {
    # torchstone train gpt   the size and time of nanoGPT's CPU setting, another rate; on Tiny Shakespeare
    # (--data FOLDER) 2.3 min of 1 core, validation loss 1.77
    "shakespeare": Recipe(optim=replace(Recipe.optim, lr=4e-3)),
    # torchstone train gpt/shakespeare_nanogpt --data FOLDER   nanoGPT's CPU setting: 1.88 there
    "shakespeare_nanogpt": NANO,
    # torchstone train gpt/shakespeare_gpu --data FOLDER   nanoGPT's GPU setting: 1.4697 there
    "shakespeare_gpu": GPU,
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


class Layer(nn.Module):
    """Attention to what came before, then the feed-forward network; each adds to its input."""

    def __init__(
        self, width: int, heads: int, inner: int, *, activation: str, bias: bool, post_norm: bool,
        eps: float, scale: float | None, dropout: float, attention_dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps, bias=bias)
        self.attention = MultiHeadAttention(width, heads, bias=bias, scale=scale, dropout=attention_dropout)
        self.norm2 = nn.LayerNorm(width, eps, bias=bias)
        self.feed = FeedForward(width, inner, activation, bias=bias)
        self.post_norm, self.dropout = post_norm, dropout

    def forward(
        self, h: Float[Tensor, "batch time width"], past: KVCache | None = None
    ) -> Float[Tensor, "batch time width"]:
        p, training = self.dropout, self.training
        if self.post_norm:
            a = self.norm1(h + F.dropout(self.attention(h, causal=True, cache=past), p, training))
            return self.norm2(a + F.dropout(self.feed(a), p, training))
        a = h + F.dropout(self.attention(self.norm1(h), causal=True, cache=past), p, training)
        return a + F.dropout(self.feed(self.norm2(a)), p, training)


class GPT(nn.Module):
    """Tokens and places, layers, and the next token's logits.

    Args:
        inner: width of the feed-forward layers, by default four times `width`.
        post_norm: norms after each sum and none at the end (GPT-1).
        tied: the embedding is the last layer too.
        dropout: of what is added in each layer; `embedding_dropout` and `attention_dropout` (of
            attention weights) are by default the same.
        scaled: divide attention's products by √(head's width); `scaled_by_layer`: by the number
            of the layer as well.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        vocabulary: int = 50_257,
        context: int = 1024,
        inner: int | None = None,
        activation: str = "gelu_new",
        bias: bool = True,
        post_norm: bool = False,
        tied: bool = True,
        eps: float = 1e-5,
        dropout: float = 0.0,
        embedding_dropout: float | None = None,
        attention_dropout: float | None = None,
        scaled: bool = True,
        scaled_by_layer: bool = False,
    ):
        super().__init__()
        self.vocab_size, self.context = vocabulary, context
        self.embedding_dropout = dropout if embedding_dropout is None else embedding_dropout
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width)
        unit = (width // heads) ** -0.5 if scaled else 1.0
        layer = partial(
            Layer, width, heads, inner or 4 * width, activation=activation, bias=bias,
            post_norm=post_norm, eps=eps, dropout=dropout, attention_dropout=attention_dropout,
        )  # fmt: skip
        scales = [unit / (number if scaled_by_layer else 1) for number in range(1, depth + 1)]
        self.layers = nn.ModuleList([layer(scale=scale) for scale in scales])
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(width, eps, bias=bias)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        self.initialise()

    def initialise(self) -> None:
        """N(0, 0.02²); where the stream is added to, over √(2 layers), so that it does not grow."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() > 1:
                adds = name.endswith(("attention.out.weight", "feed.down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * len(self.layers)) ** (0.5 * adds))

    def make_cache(self) -> list[KVCache]:
        """An empty cache for `forward`: each layer's keys and values."""
        return [KVCache(self.context) for _ in self.layers]

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        past: list[KVCache] | None = None,
        last: bool = False,
    ) -> Float[Tensor, "batch places vocabulary"]:
        """Logits of the next token at every place, or at the `last` one only.

        With `past`, `tokens` go on from what was read into it.

        Raises:
            BadInput: more tokens than the context holds.
        """
        begin = past[0].length if past else 0
        end = begin + tokens.shape[1]
        if end > self.context:
            raise BadInput(f"{end} tokens, but the context holds {self.context}")
        h = self.tokens(tokens) + self.places.weight[begin:end]
        h = F.dropout(h, self.embedding_dropout, self.training)
        for number, layer in enumerate(self.layers):
            h = layer(h, past[number] if past else None)
        return self.head(self.norm(h[:, -1:] if last else h))


def sized(width: int, depth: int, heads: int, **model_config: Any) -> partial:
    return partial(GPT, width=width, depth=depth, heads=heads, **model_config)


# nanoGPT's have no biases, and the exact gelu
CHARACTERS = {"vocabulary": 65, "activation": "gelu", "bias": False}
THIRD = {
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
    "gpt_char_cpu": Variant(sized(128, 4, 4, context=64, **CHARACTERS), (64,)),
    "gpt_char": Variant(sized(384, 6, 6, context=256, **CHARACTERS), (256,)),
    "gpt1": Variant(sized(768, 12, 12, vocabulary=40_478, context=512, post_norm=True), (512,)),
    "gpt2": Variant(sized(768, 12, 12), (1024,)),
    "gpt2_medium": Variant(sized(1024, 24, 16), (1024,)),
    "gpt2_large": Variant(sized(1280, 36, 20), (1024,)),
    "gpt2_xl": Variant(sized(1600, 48, 25), (1024,)),
    **{f"gpt3_{name}": Variant(sized(*s, context=2048), (2048,)) for name, s in THIRD.items()},
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    text = read_text(recipe.data)
    tokenizer = make_tokenizer(recipe, text)
    make: Any = VARIANTS[recipe.variant].make
    changed = {name: getattr(recipe, name) for name in ("width", "depth", "heads", "context")}
    model_config = {
        **make.keywords,
        **{name: value for name, value in changed.items() if value is not None},
        "vocabulary": tokenizer.get_vocab_size(),
        "dropout": recipe.dropout,
    }
    rng.seed(recipe.seed)
    try:
        model = make(**model_config).to(device)
    except ValueError as error:
        raise BadInput(f"the network cannot be made so: {error}") from None
    yield train_language_model(model, recipe, text, tokenizer, model_config=model_config)


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


def count(variant: str) -> int:
    with torch.device("meta"):  # counted without memory for the weights
        return parameters(VARIANTS[variant].make())


FACTS = [Fact(f"{v} parameters", partial(count, v), figure) for v, figure in COUNTS.items()]


def reference() -> Iterator[ParityCase]:
    """transformers' classes, in configurations drawn with a fixed seed."""
    torch.manual_seed(0)
    for number, net in enumerate(references.gpts(10)):
        model_config = from_config(net.config.to_dict())[1]
        theirs = references.OutputAdapter(net, lambda net, tokens: net(tokens).logits).double().eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.normal_(std=0.2)
        ours = GPT(**model_config).double().eval()
        ours.load_state_dict(names(theirs.state_dict()))
        tokens = torch.randint(model_config["vocabulary"], (3, model_config["context"] - number % 3))
        if number >= 6:
            ours, theirs = ours.float(), theirs.float()
        label = f"{net.config.model_type} {list(model_config.values())}"
        yield ParityCase(ours, theirs, tokens, names, torch.optim.AdamW, label)


def names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return published("", {name.removeprefix("net."): each for name, each in tensors.items()})
