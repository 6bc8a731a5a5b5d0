"""Performer: a language model or encoder whose attention is linear in the length; its past has a fixed size.

Paper: Krzysztof Choromanski, Valerii Likhosherstov, David Dohan, Xingyou Song, Andreea Gane, Tamas Sarlos,
Peter Hawkins, Jared Davis, Afroz Mohiuddin, Lukasz Kaiser, David Belanger, Lucy Colwell and Adrian Weller,
"Rethinking Attention with Performers", ICLR 2021, arXiv:2009.14794 (2020), section 2 and appendix B.1.

The idea. Softmax attention weighs each pair of tokens by exp(q·k/√d), so its cost grows with the square of
the length. That weight is the expectation of a product, one factor of which depends on the query alone and
the other on the key alone. Estimated by m random features (FAVOR+), the sum over keys is the same for all
queries. In a causal model that sum is a recurrent state: a new token is added to it and then forgotten.

    exp(q·k/√d) = E[φ_w(q) φ_w(k)],   φ_w(x) = exp(w·x̂ − |x̂|²/2),   x̂ = x/d^¼,   w ~ N(0, I)     (lemma 1)
    S_t = Σ_{s≤t} φ(k_s) (v_s, 1)ᵀ,   (a_t, c_t) = φ(q_t)ᵀ S_t,   Attention(h)_t = W_o a_t / c_t      (causal)
    a = h + Attention(LN₁ h),   h = a + W₂ gelu(W₁ LN₂ a)                                     each block
    p(next) = softmax(LN(h) W_eᵀ),   loss −Σ log p(tokenₜ | tokens before)

    performer_char_cpu   width 128, 4 blocks, 4 heads, context 64, 128 features
    performer_char       width 384, 6 blocks, 6 heads, context 256, 256 features
    performer_tiny       encoder: width 128, 2 blocks, 2 heads, 128 features

As an encoder (`--task masked_lm`, `classify`) every token attends to all, Attention(h)_t = W_o a / c with the
same sums over all s. It is pre-trained on masked words, −log p(wᵢ) for 15 % of the tokens, and then labels
documents, softmax(W tanh(W LN(h)_<s>)), or words, softmax(W LN(h)ᵢ).

Features are positive, so no denominator vanishes. The m rows w are orthogonal in blocks of d, which lowers
the variance (section 2.4). The heads of a block share them, and each block has its own. They are no
parameters: training draws others every `redraw_interval` steps (0 keeps the first), evaluation and
generation draw none. A checkpoint holds them, so a resumed run draws what it would have drawn.

All else is as in `gpt` of this library: names of weights, initialization, positions, validation. Weights of
one fit the other, and the two approach each other as the number of features grows. Positions are learned,
so a text may not be longer than the context; `generate` drops its older half then.

What differs from the paper. Its models are of proteins, images and books; here are GPT-2's blocks, on any
text. The stabilizer of the exponentials cancels exactly (`parts/transformer/kernel_attention.py`), where the
authors' code adds ε to each feature. Their generalized attention, with a ReLU in place of exp, is no estimate
of softmax and is left out. Attention weights exist nowhere, so dropout is that of residual branches.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.synthetic import in_context
from torchstone.data.text.corpus import read_text
from torchstone.data.text.mlm_batches import MLMBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import GradientUpdate, OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, parameter_facts
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.initialization import init_truncated_normal
from torchstone.parts.transformer.kernel_attention import (
    KernelState,
    RandomFeatures,
    draw_features,
    kernel_attention,
    kernel_attention_step,
    kernel_state,
)
from torchstone.systems import Variant
from torchstone.tasks.optimization import decay_matrices_only
from torchstone.tasks.text import bert_inference, language_model
from torchstone.tasks.text.bert_data import Start, load_encoder, load_matching_weights, prepare
from torchstone.tasks.text.few_shot import few_shot as measure_few_shot
from torchstone.tasks.text.finetune import finetune
from torchstone.tasks.text.generate import generate
from torchstone.tasks.text.in_context import train_in_context
from torchstone.tasks.text.language_model import make_tokenizer, train_language_model
from torchstone.tasks.text.masked_lm import masked_word_loss, pretrain

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "few_shot",
    "generate",
    "predict",
    "reference",
    "sample",
]

MARGIN = ("loss", -1.3)


@dataclass(frozen=True)
class Recipe:
    data: str = "shakespeare"  # text: shakespeare, python, python/PACKAGE, file, folder, hf:NAME; in_context
    variant: str = "performer_char_cpu"  # network; the next five fields override its sizes, none keeps them
    task: Literal["language", "masked_lm", "classify"] = "language"  # training task: text, or labeled text
    width: int | None = None  # embedding dimension
    depth: int | None = None  # number of transformer blocks
    heads: int | None = None  # number of attention heads
    context: int | None = None  # context length in tokens
    features: int | None = None  # number of random features of a head
    redraw_interval: int = 100  # training steps between draws of the random features, 0 for one draw
    tokenizer: str = "characters"  # tokenizer: characters, bpe (encoders: always), or a tokenizer.json
    vocab_size: int = 1000  # largest vocabulary of a trained tokenizer
    dropout: float = 0.0  # dropout probability
    weights: str | None = None  # encoder: weights to start from instead of pre-training, a run of an encoder
    max_examples: int | None = None  # encoder: maximum number of examples (default: all)
    pretrain_steps: int = 1500  # classify: number of updates in pre-training
    pretrain_batch_size: int = 64  # classify: batch size in pre-training (rows)
    pretrain_lr: float = 2e-3  # classify: peak learning rate in pre-training
    mask_prob: float = 0.15  # encoder: probability of masking a token in pre-training
    steps: int = 2000  # number of training steps
    batch_size: int = 12  # batch size, in windows of text
    init_std: float = 0.02  # standard deviation of initial weights
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        lr=4e-3,
        beta2=0.99,
        weight_decay=0.1,
        warmup_ratio=0.05,
        min_lr_ratio=0.1,
        max_grad_norm=1.0,
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, features, windows and dropout
    device: str = "auto"  # device: auto, cpu, cuda, mps


ENCODER = Recipe(
    data="sentiment",
    variant="performer_tiny",
    task="classify",
    context=64,
    vocab_size=8192,
    dropout=0.1,
    steps=900,
    batch_size=64,
    optim=OptimConfig(
        optimizer="adamw",
        lr=5e-4,
        weight_decay=0.01,
        lr_schedule="linear",
        warmup_ratio=0.1,
        max_grad_norm=1.0,
        ema_decay=0.99,
    ),
)
RECIPES = {
    # torchstone train performer   the sizes, steps and optimizer of gpt/shakespeare; on Tiny Shakespeare
    # (--data FOLDER) 3.5 min of 1 core, validation loss 1.86
    "shakespeare": Recipe(),
    # encoders, with the sizes, steps and optimizer of linformer/sentiment and linformer/masked
    "sentiment": ENCODER,
    "masked": replace(
        ENCODER,
        data="shakespeare",
        task="masked_lm",
        context=512,
        steps=1500,
        batch_size=8,
        optim=replace(ENCODER.optim, lr=2e-3),
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="python/json",
        width=32,
        depth=2,
        context=32,
        features=24,
        redraw_interval=25,
        steps=120,
        batch_size=8,
        optim=replace(Recipe.optim, lr=1e-2),
    ),
}


@dataclass(frozen=True)
class PerformerConfig:
    """The architecture of a Performer.

    Args:
        features: number of random features of a head; d ln d suffice for a head of width d (theorem 4).
        d_ff: width of the feed-forward layers, by default four times `width`.
        causal: attention to no later token: a language model. Without it, an encoder.
        init_std: standard deviation of initial weights, of residual projections less.
        features_seed: random seed of the features.
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    vocab_size: int = 65
    context: int = 64
    features: int = 128
    d_ff: int | None = None
    activation: str = "gelu"
    bias: bool = False
    causal: bool = True
    eps: float = 1e-5
    dropout: float = 0.0
    init_std: float = 0.02
    features_seed: int = 0


class RecurrentState:
    """What one attention layer keeps of all tokens so far: sums over them, and how many they are."""

    def __init__(self) -> None:
        self.length = 0
        self.kernel: KernelState | None = None


class FavorAttention(nn.Module):
    """Multi-head attention by positive orthogonal random features (FAVOR+).

    Args:
        number: of the block, from 1 on, by which its features differ from those of others.
    """

    def __init__(self, config: PerformerConfig, number: int):
        super().__init__()
        width, self.heads, self.causal = config.width, config.heads, config.causal
        if width % self.heads:
            raise ValueError(f"a width of {width} cannot be divided among {self.heads} heads")
        if config.features < 1:
            raise ValueError(f"{config.features} random features; at least 1 is needed")
        seed = derive_seed(config.features_seed, SeedStream.RANDOM_FEATURES, number)
        self.qkv = nn.Linear(width, 3 * width, bias=config.bias)
        self.features = RandomFeatures(config.features, width // self.heads, seed=seed)
        self.out = nn.Linear(width, width, bias=config.bias)

    def forward(
        self,
        h: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time"] | None = None,
        state: RecurrentState | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """With a state, the tokens continue those that it has read, and are added to it."""
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in self.qkv(h).chunk(3, 2))
        w = self.features()  # (m, head_dim); q, k and v are (B, H, T, head_dim)
        if state is not None and state.kernel is not None:
            outputs = []
            for t in range(h.shape[1]):
                now = slice(t, t + 1)
                y, state.kernel = kernel_attention_step(
                    q[:, :, now], k[:, :, now], v[:, :, now], w, state.kernel
                )
                outputs.append(y)
            y = torch.cat(outputs, 2)
        else:
            y = kernel_attention(q, k, v, w, causal=self.causal, mask=mask)
            if state is not None:
                state.kernel = kernel_state(k, v, w, mask=mask)
        if state is not None:
            state.length += h.shape[1]
        return self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, head_dim) -> (B, T, C)


class Block(nn.Module):
    """Kernel attention, then the feed-forward network, each after its norm and with a residual connection."""

    def __init__(self, config: PerformerConfig, number: int):
        super().__init__()
        width, eps, bias = config.width, config.eps, config.bias
        self.norm1 = nn.LayerNorm(width, eps, bias=bias)
        self.attention = FavorAttention(config, number)
        self.norm2 = nn.LayerNorm(width, eps, bias=bias)
        self.mlp = FeedForward(width, config.d_ff or 4 * width, config.activation, bias=bias)
        self.dropout = config.dropout

    def forward(
        self,
        h: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time"] | None = None,
        state: RecurrentState | None = None,
    ) -> Float[Tensor, "batch time width"]:
        p, training = self.dropout, self.training
        a = h + F.dropout(self.attention(self.norm1(h), mask, state), p, training)
        return a + F.dropout(self.mlp(self.norm2(a)), p, training)


class Performer(nn.Module):
    """Token and position embeddings, blocks with kernel attention, and the next token's logits."""

    def __init__(self, config: PerformerConfig):
        super().__init__()
        self.vocab_size, self.context, self.causal = config.vocab_size, config.context, config.causal
        self.dropout = config.dropout
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList([Block(config, number) for number in range(1, config.depth + 1)])
        self.final_norm = nn.LayerNorm(config.width, config.eps, bias=config.bias)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.head.weight = self.token_embedding.weight
        self.init_weights(config.init_std)

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> "Performer":
        """A Performer from the fields of `PerformerConfig`."""
        return cls(PerformerConfig(**kwargs))

    def init_weights(self, std: float = 0.02) -> None:
        """N(0, std²); residual projections over √(2 blocks), so that the sum of all does not grow."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() > 1:
                is_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                nn.init.normal_(weight, std=std / (2 * len(self.blocks)) ** (0.5 * is_residual))

    def redraw_features(self) -> None:
        """Other random features in every block: only between training steps."""
        for module in self.modules():
            if isinstance(module, RandomFeatures):
                module.redraw()

    def make_cache(self) -> list[RecurrentState]:
        """Each block's state before the first token, for `forward`. Its size does not grow with the text.

        Raises:
            BadInput: an encoder, whose tokens attend to later ones.
        """
        if not self.causal:
            raise BadInput("this Performer is an encoder: it reads whole texts, there is nothing to sample")
        return [RecurrentState() for _ in self.blocks]

    def hidden(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        cache: list[RecurrentState] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """What the last block gives for each token, before the final norm.

        Args:
            mask: True for tokens, False for padding, which no token attends to.
            cache: the state after earlier tokens, which `tokens` continue and are added to.

        Raises:
            BadInput: more tokens than the context holds, or a mask of tokens that continue others.
        """
        begin = cache[0].length if cache else 0
        end = begin + tokens.shape[1]
        if end > self.context:
            raise BadInput(f"{end} tokens, but the context holds {self.context}")
        if begin and mask is not None:
            raise BadInput(
                "padding is only possible in the first tokens that a cache reads: leave out the mask"
            )
        h = self.token_embedding(tokens) + self.position_embedding.weight[begin:end]  # (B, T, C)
        h = F.dropout(h, self.dropout, self.training)
        for index, block in enumerate(self.blocks):
            h = block(h, mask, cache[index] if cache else None)  # (B, T, C)
        return h

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        cache: list[RecurrentState] | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch positions vocab"]:
        """Logits of the next token at every position, or (`last_only`) at the last one; see `hidden`."""
        h = self.hidden(tokens, mask, cache)
        return self.head(self.final_norm(h[:, -1:] if last_only else h))  # (B, T, C) -> (B, T, V)


class PerformerEncoder(nn.Module):
    """A Performer whose tokens attend to all, and a head.

    Args:
        head: masked (a word for each token), sentence (a label for each text) or tokens (one for each token).
        num_classes: of the last two.
    """

    def __init__(self, config: PerformerConfig, *, head: str = "masked", num_classes: int = 2):
        super().__init__()
        self.head, width = head, config.width
        self.body = Performer(replace(config, causal=False))
        self.dropout = nn.Dropout(config.dropout)
        if head == "sentence":
            self.pre_classifier = nn.Linear(width, width)
        if head in ("sentence", "tokens"):
            self.classifier = nn.Linear(width, num_classes)
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                init_truncated_normal(layer, width)

    @classmethod
    def from_kwargs(cls, *, head: str = "masked", num_classes: int = 2, **kwargs: Any) -> "PerformerEncoder":
        """An encoder from the fields of `PerformerConfig`, and its head."""
        return cls(PerformerConfig(**kwargs), head=head, num_classes=num_classes)

    def redraw_features(self) -> None:
        """See `Performer.redraw_features`."""
        self.body.redraw_features()

    def forward(
        self, tokens: Int64[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time width"]:
        """Hidden states, normalized."""
        return self.body.final_norm(self.body.hidden(tokens, mask))

    def logits(self, tokens: Tensor, mask=None, segments=None, positions: Tensor | None = None):
        """`masked`: (batch, n, vocab_size). `sentence`: (batch, classes). `tokens`: (batch, time, classes).

        Args:
            segments: not distinguished; two texts are divided by `</s>`.
            positions: Int64 (batch, n), the positions to predict words at; by default all.
        """
        h = self(tokens, mask)
        if self.head == "tokens":
            return self.classifier(self.dropout(h))
        if self.head == "sentence":
            # softmax(W tanh(W LN(h)_<s>))
            features = self.pre_classifier(self.dropout(h[:, 0])).tanh()
            return self.classifier(self.dropout(features))
        if positions is not None:
            h = h.gather(1, positions[..., None].expand(-1, -1, h.shape[2]))
        return self.body.head(h)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the next token, −log p(tokenₜ | tokens before), mean over all positions (nats)."""
    x, y = batch  # both (B, T); y is x one token later
    logits = model(x)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def masked_loss(output: Tensor, batch: MLMBatch) -> dict[str, Tensor]:
    """−log p of the masked words, averaged over all of them.

    Args:
        output: of the head `masked`, at the masked positions.
    """
    # −log p(wᵢ)
    loss, accuracy = masked_word_loss(output, batch)
    return {"loss": loss, "accuracy": accuracy}


class RedrawingUpdate:
    """An update that draws other random features after each `interval` training steps; 0 for never.

    They are drawn before the next step, not after the last, so that what is evaluated is what was trained.
    The number of steps goes into the checkpoint.
    """

    def __init__(self, update: Callable[[Any], Mapping[str, Any]], model: Any, interval: int):
        self.update, self.model, self.interval, self.steps = update, model, interval, 0

    def __call__(self, batch: Any) -> Mapping[str, Any]:
        if self.interval and self.steps and not self.steps % self.interval:
            self.model.redraw_features()
        self.steps += 1
        return self.update(batch)

    def diagnosis(self) -> str:
        """What the update itself says where a loss is not finite."""
        return self.update.diagnosis() if isinstance(self.update, GradientUpdate) else ""

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def variant(width: int, depth: int, heads: int, **config: Any) -> Variant:
    make = partial(Performer.from_kwargs, width=width, depth=depth, heads=heads, **config)
    return Variant(make, (config["context"],))


def encoder_variant(width: int, depth: int, heads: int, **config: Any) -> Variant:
    sizes = {"width": width, "depth": depth, "heads": heads, "vocab_size": 8192, "context": 512, **config}
    return Variant(partial(PerformerEncoder.from_kwargs, **sizes), (512,))


# sizes of nanoGPT's networks; features about d ln d for heads of width d, which is 32 and 64
VARIANTS = {
    "performer_char_cpu": variant(128, 4, 4, vocab_size=65, context=64, features=128),
    "performer_char": variant(384, 6, 6, vocab_size=65, context=256, features=256),
    "performer_tiny": encoder_variant(128, 2, 2, features=128),
    "performer_mini": encoder_variant(256, 4, 4, features=256),
}


def is_encoder(each: Variant) -> bool:
    """Whether a variant has a head, and not the next token's logits."""
    make: Any = each.make
    return make.func == PerformerEncoder.from_kwargs


def build(recipe: Recipe) -> Iterator[Run]:
    encoders = [name for name, each in VARIANTS.items() if is_encoder(each)]
    fitting = encoders if recipe.task != "language" else [name for name in VARIANTS if name not in encoders]
    if recipe.variant not in fitting:
        raise BadInput(f"{recipe.variant} is not for task {recipe.task}: take {' or '.join(fitting)}")
    yield from build_language_model(recipe) if recipe.task == "language" else build_encoder(recipe)


def sizes_of(recipe: Recipe) -> dict[str, Any]:
    """The arguments of the variant, and those that the recipe has in their place."""
    make: Any = VARIANTS[recipe.variant].make
    sizes = {name: getattr(recipe, name) for name in ("width", "depth", "heads", "context", "features")}
    return {**make.keywords, **{name: size for name, size in sizes.items() if size is not None}}


def build_language_model(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    text = None if in_context.is_in_context(recipe.data) else read_text(recipe.data)
    tokenizer = in_context.make_tokenizer() if text is None else make_tokenizer(recipe, text)
    model_config = {
        **sizes_of(recipe),
        "vocab_size": tokenizer.get_vocab_size(),
        "dropout": recipe.dropout,
        "init_std": recipe.init_std,
        "features_seed": recipe.seed,
    }
    rng.seed(recipe.seed)
    try:
        model = Performer.from_kwargs(**model_config).to(device)
    except ValueError as error:
        raise BadInput(f"this network is impossible: {error}") from None
    learning: dict[str, Any] = {
        "loss": loss,
        "parameters": decay_matrices_only(model, recipe.optim),  # no weight decay of norms
        "model_config": model_config,
    }
    if text is None:
        run = train_in_context(model, recipe, tokenizer, **learning)
    else:
        run = train_language_model(model, recipe, text, tokenizer, **learning)
    run.update = run.state["redraw"] = RedrawingUpdate(run.update, model, recipe.redraw_interval)
    yield run


def find_start(recipe: Recipe, context: int) -> Start | None:
    """What the recipe's weights hold.

    Raises:
        BadInput: they are of a language model or another system, or of a network for shorter texts.
    """
    if recipe.weights is None:
        return None
    start = load_encoder(Path(recipe.weights), "performer")
    if "head" not in start.model_config:
        raise BadInput(f"{recipe.weights} is a causal language model; an encoder starts from an encoder")
    longest = start.model_config["context"]
    if context > longest:
        raise BadInput(
            f"context is {context}, but {recipe.weights} has {longest} positions: train a longer one"
        )
    return start._replace(model_config={**start.model_config, "max_length": longest})


def build_encoder(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    sizes = sizes_of(recipe)
    start = find_start(recipe, sizes["context"])
    row_recipe = SimpleNamespace(**vars(recipe), max_length=sizes["context"])
    setup = prepare(row_recipe, {**sizes, "features_seed": recipe.seed}, "performer", start)
    known = {field.name for field in fields(PerformerConfig)} - {"causal"}
    model_config = {name: value for name, value in setup.model_config.items() if name in known}

    def make(head: str, tensors: Any, **more: Any) -> tuple[nn.Module, dict[str, Any]]:
        config: dict[str, Any] = {**model_config, "head": head, **more}
        try:
            model = PerformerEncoder.from_kwargs(**config)
        except ValueError as error:
            raise BadInput(f"this network is impossible: {error}") from None
        return load_matching_weights(model, tensors).to(device), config

    def redrawing(run: Run) -> Run:
        update = RedrawingUpdate(run.update, run.state["model"], recipe.redraw_interval)
        run.update = run.state["redraw"] = update
        return run

    rng.seed(recipe.seed)
    tensors = setup.tensors
    if tensors is None or recipe.task == "masked_lm":
        model, config = make("masked", tensors)
        stage = recipe
        if recipe.task == "classify":
            stage = replace(
                recipe,
                steps=recipe.pretrain_steps,
                batch_size=recipe.pretrain_batch_size,
                optim=replace(recipe.optim, lr=recipe.pretrain_lr),
            )
        metadata = {**setup.metadata, "model_config": config, "pairs": False}
        yield redrawing(
            pretrain(model, stage, setup.documents, setup.special, masked_loss, metadata=metadata)
        )
        tensors = model.state_dict()
    if recipe.task == "masked_lm":
        return
    dataset: Any = setup.dataset
    head = "tokens" if dataset.has_word_labels else "sentence"
    model, config = make(head, tensors, num_classes=len(dataset.classes))
    yield redrawing(finetune(model, recipe, setup, model_config=config))


ENCODER_TASKS = ("masked", "labels")  # of a run's metadata


def _inference_of(metadata: dict) -> Any:
    return bert_inference if metadata["task"] in ENCODER_TASKS else language_model


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Loss and perplexity of a text; of an encoder, accuracy and cross-entropy of masked words or labels."""
    return _inference_of(metadata).evaluate(model, metadata, spec, held_out=held_out)


def predict(model: nn.Module, metadata: dict, inputs: Sequence[str | Path], **options: Any) -> list[dict]:
    """The continuation of each text (options: `max_new_tokens`, `examples`); of an encoder, words for each
    [MASK] (option: `fill`), or labels."""
    function = _inference_of(metadata).predict
    if unknown := [name for name in options if name not in inspect.signature(function).parameters]:
        raise BadInput(f"this Performer of task {metadata['task']} predicts without {unknown[0]!r}")
    return function(model, metadata, inputs, **options)


def few_shot(model: nn.Module, metadata: dict, spec: str, **options: Any) -> dict[str, float]:
    """Accuracy with examples in the context: see `tasks.text.few_shot.few_shot`."""
    if metadata["task"] in ENCODER_TASKS:
        raise BadInput("this Performer is an encoder: it reads whole texts, there is nothing to continue")
    return measure_few_shot(model, metadata, spec, **options)


def sample(model: nn.Module, metadata: dict, **options: Any) -> list[str]:
    """Texts that the language model generates: see `tasks.text.language_model.sample`."""
    if metadata["task"] in ENCODER_TASKS:
        raise BadInput("this Performer is an encoder: it reads whole texts, there is nothing to sample")
    return language_model.sample(model, metadata, **options)


# x and y of the facts; 20,000 independent estimates of exp(x·y), each by 8 features
PAIR = torch.tensor(
    [[0.4, -0.2, 0.1, 0.3, 0.0, -0.1, 0.1, 0.2], [0.2, 0.1, -0.1, 0.4, 0.1, 0.1, -0.3, 0.2]],
    dtype=torch.float64,
)
DRAWS = 20_000


def estimates(*, orthogonal: bool) -> Float[Tensor, "draws pairs"]:
    """φ(x)·φ(y)/m, each of m = d features that are orthogonal to each other, or independent.

    The distribution of w is the same in every direction, so x and y are turned into 16 for each draw.
    """
    d = PAIR.shape[1]
    turned = torch.stack([sign * PAIR.roll(i, 1) for i in range(d) for sign in (1, -1)])  # (pairs, 2, d)
    w = draw_features(DRAWS * d, d, generator=torch.Generator().manual_seed(0), orthogonal=orthogonal)
    phi = (w.double() @ turned.flatten(0, 1).T - (turned.square().sum(2) / 2).flatten()).exp()
    return phi.unflatten(1, (-1, 2)).prod(2).view(DRAWS, d, -1).mean(1)


def squared_error(*, orthogonal: bool) -> float:
    """Mean squared error of the estimates."""
    return float((estimates(orthogonal=orthogonal) - PAIR.prod(0).sum().exp()).square().mean())


def squared_error_by_lemma_2() -> float:
    """exp(|x + y|²) exp(x·y)² (1 − exp(−|x + y|²)) / m of independent features."""
    square = PAIR.sum(0).square().sum()
    return float(square.exp() * PAIR.prod(0).sum().exp().square() * (1 - (-square).exp()) / PAIR.shape[1])


def margin_by_theorem_2() -> float:
    """2 (m − 1) / (m (d + 2)) · (exp(x·y) − exp(−(|x|² + |y|²)/2))²: orthogonal features err so much less."""
    d = PAIR.shape[1]
    gap = PAIR.prod(0).sum().exp() - (-PAIR.square().sum() / 2).exp()
    return float(2 * (d - 1) / (d * (d + 2)) * gap.square())


def largest_cosine() -> float:
    """Between two features of one block."""
    w = draw_features(32, 32, generator=torch.Generator().manual_seed(0)).double()
    cosines = F.normalize(w) @ F.normalize(w).T
    return float((cosines - torch.eye(32, dtype=torch.float64)).abs().max())


@torch.no_grad()
def state_size(length: int) -> int:
    """How many numbers `performer_char_cpu` keeps of so many tokens."""
    model = VARIANTS["performer_char_cpu"].make()
    cache = model.make_cache()
    for token in torch.zeros(length, 1, 1, dtype=torch.int64):
        model(token, cache=cache)
    return sum(part.numel() for state in cache for part in state.kernel)


COUNTS = {  # V·d + C·d + layers·(12 d² + 2 d) + d: features are no parameters
    "performer_char_cpu": (804_096,),
    "performer_char": (10_745_088,),
}
FACTS = [
    *parameter_facts(VARIANTS, COUNTS),
    # layers · heads · features · (head_dim + 2); a cache of keys and values has 2 · layers · width a token
    *(Fact(f"numbers kept of {n} tokens", partial(state_size, n), 4 * 4 * 128 * 34) for n in (1, 40)),
    Fact(
        "lemma 1: mean estimate over exp(x·y)",
        lambda: float(estimates(orthogonal=True).mean() / PAIR.prod(0).sum().exp()),
        1.0,
        0.003,
    ),
    Fact(
        "lemma 2: squared error of independent features over its formula",
        lambda: squared_error(orthogonal=False) / squared_error_by_lemma_2(),
        1.0,
        0.03,
    ),
    Fact("section 2.4: largest cosine between features of a block", largest_cosine, 0.0, 1e-6),
    Fact(
        "theorem 2: orthogonal features err less by its margin",
        lambda: squared_error_by_lemma_2() - squared_error(orthogonal=True) >= margin_by_theorem_2(),
        True,
    ),
]


def reference() -> Iterator[ParityCase]:
    """The features and the weights of all pairs written out: language models and encoders."""
    from torchstone.references import randomize_weights
    from torchstone.references.performer import AllPairs, random_configs

    for config, inputs, dtype in random_configs():
        ours = Performer.from_kwargs(**config).to(dtype)
        randomize_weights(ours, 0.3)
        label = f"{'causal' if config['causal'] else 'encoder'} {list(config.values())}"
        yield ParityCase(ours, AllPairs(ours, config), inputs, optimizer=torch.optim.AdamW, label=label)
